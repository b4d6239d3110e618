#include "runtime/indexer_bench_step.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/counter_rng.h"

namespace fulgur {
namespace {

constexpr size_t kRotatedBytes = size_t{200} << 20;
constexpr int kRope = 64;
constexpr int kTopk = 2048;
constexpr int kBlock = 128;  // of FP8 scales

/// Near a normal number of deviation 1: the sum of four uniform bytes.
float near_normal(uint32_t word) {
  const uint32_t sum = (word & 255U) + (word >> 8 & 255U) + (word >> 16 & 255U) + (word >> 24);
  return (static_cast<float>(sum) - 510.0F) / 147.8F;
}
Bf16 normal_bf16(uint32_t word) { return to_bf16(near_normal(word)); }
uint8_t normal_e4m3(uint32_t word) { return to_e4m3(8 * near_normal(word)); }

/// `values` again and again, until there are `count`.
template <typename T>
void repeat_up_to(size_t count, std::vector<T>& values) {
  const size_t period = values.size();
  values.resize(count);
  for (size_t i = period; i < count; ++i) values[i] = values[i - period];
}

size_t product(int a, int b) { return static_cast<size_t>(a) * static_cast<size_t>(b); }

}  // namespace

size_t copies_for(size_t bytes) { return std::max<size_t>(2, (kRotatedBytes + bytes - 1) / bytes); }

std::vector<uint32_t> random_words(size_t count, uint32_t seed) {
  std::vector<uint32_t> words(count);
  for (size_t i = 0; i < count; i += 4) {
    const auto four = philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, {seed, 0});
    for (size_t k = 0; k < 4 && i + k < count; ++k) words[i + k] = four[k];
  }
  return words;
}

std::vector<uint32_t> repeated_words(size_t count, uint32_t seed) {
  constexpr size_t kDifferentWords = size_t{32} << 20;
  std::vector<uint32_t> words = random_words(std::min(count, kDifferentWords), seed);
  repeat_up_to(count, words);
  return words;
}

template <typename T, typename Make>
std::unique_ptr<RotatedData> IndexerBenchStep::random_data(size_t count, uint32_t seed, Make make,
                                                           size_t copies) const {
  const std::vector<uint32_t> words = random_words(count, seed);
  std::vector<T> values(count);
  std::transform(words.begin(), words.end(), values.begin(), make);
  return std::make_unique<RotatedData>(backend_, values, copies);
}

IndexerBenchStep::Sizes IndexerBenchStep::sizes_of(BenchModel model) {
  if (model == BenchModel::kGlm5)
    return {6144, 2048, {.num_heads = 32, .head_dim = 128, .rope = kRope, .rope_interleave = true}};
  return {7168, 1536, {.num_heads = 64, .head_dim = 128, .rope = kRope, .rope_interleave = false}};
}

IndexerBenchStep::IndexerBenchStep(const IndexerBench& bench, const Backend& backend, int tokens)
    : bench_(bench), backend_(backend), sizes_(sizes_of(bench.model)) {
  make_rope();
  make_batch(tokens);
  make_weights();
  make_activations();
  make_keys();
}

void IndexerBenchStep::make_rope() {
  const int positions = bench_.context;
  const int half = kRope / 2;
  std::vector<float> cos(product(positions, half));
  std::vector<float> sin(cos.size());
  for (size_t i = 0; i < cos.size(); ++i) {
    const size_t position = i / half;
    const double angle =
        static_cast<double>(position) * std::pow(10000.0, -static_cast<double>(i % half) / half);
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
  cos_ = std::make_unique<RotatedData>(backend_, cos);
  sin_ = std::make_unique<RotatedData>(backend_, sin);
  rope_ = {{static_cast<float*>(cos_->copy()), positions, half},
           {static_cast<float*>(sin_->copy()), positions, half}};
}

void IndexerBenchStep::make_batch(int tokens) {
  const int each = bench_.tokens_per_sequence;
  const int sequences = tokens / each;
  const int pages = (bench_.context + kPageTokens - 1) / kPageTokens;
  std::vector<int32_t> position;
  std::vector<int32_t> sequence;
  for (int t = 0; t < tokens; ++t) {
    sequence.push_back(t / each);
    position.push_back(bench_.context - each + t % each);
  }
  std::vector<int32_t> order(product(pages, sequences));
  std::iota(order.begin(), order.end(), 0);
  const std::vector<uint32_t> words = random_words(order.size(), 1);
  for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[words[i] % (i + 1)]);
  position_ = std::make_unique<RotatedData>(backend_, position);
  sequence_ = std::make_unique<RotatedData>(backend_, sequence);
  pages_ = std::make_unique<RotatedData>(backend_, order);
  fault_ = std::make_unique<RotatedData>(backend_, std::vector<uint32_t>(static_cast<size_t>(sequences)));
  batch_ = {.num_tokens = tokens,
            .num_sequences = sequences,
            .max_context = bench_.context,
            .token = static_cast<int32_t*>(sequence_->copy()),
            .position = static_cast<int32_t*>(position_->copy()),
            .sequence = static_cast<int32_t*>(sequence_->copy()),
            .pages = {static_cast<int32_t*>(pages_->copy()), sequences, pages},
            .fault = static_cast<uint32_t*>(fault_->copy())};
}

void IndexerBenchStep::make_weights() {
  projection_ =
      random_data<Bf16>(projection_bytes() / sizeof(Bf16), 5, normal_bf16, copies_for(projection_bytes()));
  query_weights_ = random_data<uint8_t>(query_bytes(), 6, normal_e4m3, copies_for(query_bytes()));
  const size_t blocks = product(query_rows() / kBlock, (sizes_.q_lora + kBlock - 1) / kBlock);
  scales_ = std::make_unique<RotatedData>(backend_, std::vector<float>(blocks, 0x1p-6F));
  norm_ = std::make_unique<RotatedData>(backend_,
                                        std::vector<float>(static_cast<size_t>(sizes_.shape.head_dim), 1.0F));
}

void IndexerBenchStep::make_activations() {
  x_ = random_data<Bf16>(product(tokens(), sizes_.hidden), 7, normal_bf16);
  q_latent_ = random_data<Bf16>(product(tokens(), sizes_.q_lora), 8, normal_bf16);
  query_ = random_data<uint8_t>(product(tokens(), query_rows()), 2, normal_e4m3);
  head_weights_ = random_data<float>(product(tokens(), sizes_.shape.num_heads), 3, near_normal);
  projected_ = BackendBuffer(backend_, product(tokens(), rows()) * sizeof(float));
  selected_ = BackendBuffer(backend_, product(tokens(), kTopk) * sizeof(int32_t));
  slots_ = BackendBuffer(backend_, selected_.bytes());
}

void IndexerBenchStep::make_keys() {
  keys_layout_ = {.dtype = DType::kF8E4M3,
                  .num_pages = batch_.num_sequences * static_cast<int>(batch_.pages.cols),
                  .width = sizes_.shape.head_dim};
  // More pages than the L2 cache holds, over and over: gigabytes would take the host long.
  constexpr int kDifferentPages = 16384;
  PagedKeys host = keys_layout_;
  host.num_pages = std::min(host.num_pages, kDifferentPages);
  std::vector<uint8_t> pool(host.bytes());
  const std::vector<uint32_t> words = random_words(pool.size() / 4, 9);
  for (size_t i = 0; i < pool.size(); ++i)
    pool[i] = normal_e4m3(words[i / 4] * (2654435761U + static_cast<uint32_t>(i % 4)));
  host.data = pool.data();
  for (int page = 0; page < host.num_pages; ++page) std::fill_n(host.scales(page), kPageTokens, 1.0F);
  repeat_up_to(keys_layout_.bytes(), pool);
  keys_ = std::make_unique<RotatedData>(backend_, pool, copies_for(pool.size()));
}

size_t IndexerBenchStep::projection_bytes() const { return product(rows(), sizes_.hidden) * sizeof(Bf16); }
size_t IndexerBenchStep::query_bytes() const { return product(query_rows(), sizes_.q_lora); }
size_t IndexerBenchStep::copies() const {
  return std::max({projection_->copies(), query_weights_->copies(), keys_->copies()});
}

Operand IndexerBenchStep::query() const {
  return {query_->copy(), DType::kF8E4M3, tokens(), query_rows(), query_rows()};
}
Matrix<float> IndexerBenchStep::head_weights() const {
  return {static_cast<float*>(head_weights_->copy()), tokens(), sizes_.shape.num_heads};
}
Operand IndexerBenchStep::projected() const {
  return {projected_.data(), DType::kF32, tokens(), rows(), rows()};
}
PagedKeys IndexerBenchStep::keys(int call) const {
  PagedKeys keys = keys_layout_;
  keys.data = keys_->copy(call);
  return keys;
}

void IndexerBenchStep::with_prepare(IndexerProjection mode, int call,
                                    const std::function<void(const IndexerPrepare&)>& f) const {
  const Weight gain{
      .form = WeightForm::kF32, .rows = 1, .cols = sizes_.shape.head_dim, .data = norm_->copy()};
  const IndexerWeights weights{.wk_weights_proj = {.form = WeightForm::kBf16,
                                                   .rows = rows(),
                                                   .cols = sizes_.hidden,
                                                   .data = projection_->copy(call)},
                               .k_norm_gain = gain,
                               .k_norm_bias = gain,
                               .wq_b = {.form = WeightForm::kFp8,
                                        .rows = query_rows(),
                                        .cols = sizes_.q_lora,
                                        .data = query_weights_->copy(call),
                                        .scales = scales_->copy(),
                                        .block_rows = kBlock,
                                        .block_cols = kBlock}};
  f(IndexerPrepare{{x_->copy(), DType::kBf16, tokens(), sizes_.hidden, sizes_.hidden},
                   {q_latent_->copy(), DType::kBf16, tokens(), sizes_.q_lora, sizes_.q_lora},
                   weights,
                   sizes_.shape,
                   mode,
                   rope_,
                   batch_,
                   query(),
                   head_weights(),
                   keys(call)});
}

IndexerSelect IndexerBenchStep::select(int call) const {
  return {query(),
          head_weights(),
          keys(call),
          sizes_.shape,
          batch_,
          {static_cast<int32_t*>(selected_.data()), tokens(), kTopk},
          {static_cast<int32_t*>(slots_.data()), tokens(), kTopk}};
}

}  // namespace fulgur
