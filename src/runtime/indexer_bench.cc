#include "runtime/indexer_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <numeric>

#include "base/counter_rng.h"
#include "base/error.h"
#include "kernels/cuda/cuda_backend.h"
#include "ops/arena.h"
#include "ops/buffer.h"
#include "ops/context.h"
#include "ops/indexer_prepare.h"
#include "ops/indexer_select.h"

namespace fulgur {
namespace {

constexpr size_t kRotatedBytes = size_t{200} << 20;
constexpr int kLeastCalls = 64;
constexpr int kRope = 64;
constexpr int kTopk = 2048;
constexpr int64_t kBlock = 128;  // of FP8 scales

struct Sizes {
  int hidden;
  int q_lora;
  IndexerShape shape;
};
Sizes sizes_of(BenchModel model) {
  if (model == BenchModel::kGlm5)
    return {6144, 2048, {.num_heads = 32, .head_dim = 128, .rope = kRope, .rope_interleave = true}};
  return {7168, 1536, {.num_heads = 64, .head_dim = 128, .rope = kRope, .rope_interleave = false}};
}

/// Random words that differ from seed to seed: never zeros, on which kernels run faster.
std::vector<uint32_t> random_words(size_t count, uint32_t seed) {
  std::vector<uint32_t> words(count);
  for (size_t i = 0; i < count; i += 4) {
    const auto four = philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, {seed, 0});
    for (size_t k = 0; k < 4 && i + k < count; ++k) words[i + k] = four[k];
  }
  return words;
}
/// Near a normal number of deviation 1: the sum of four uniform bytes.
float near_normal(uint32_t word) {
  const uint32_t sum = (word & 255U) + (word >> 8 & 255U) + (word >> 16 & 255U) + (word >> 24);
  return (static_cast<float>(sum) - 510.0F) / 147.8F;
}

/// What is uploaded once, or `copies` times one behind another.
class Data {
 public:
  template <typename T>
  Data(const Backend& backend, const std::vector<T>& values, size_t copies = 1)
      : stride_(round_up(values.size() * sizeof(T))), buffer_(backend, stride_ * copies) {
    upload(backend, values, copies);
  }
  [[nodiscard]] void* copy(size_t i = 0) const {
    return static_cast<std::byte*>(buffer_.data()) + i * stride_;
  }

 private:
  static size_t round_up(size_t bytes) { return (bytes + 255) / 256 * 256; }
  template <typename T>
  void upload(const Backend& backend, const std::vector<T>& values, size_t copies) {
    for (size_t i = 0; i < copies; ++i) backend.upload(copy(i), values.data(), values.size() * sizeof(T));
  }

  size_t stride_;
  BackendBuffer buffer_;
};

template <typename T, typename Make>
std::unique_ptr<Data> random_data(const Backend& backend, size_t count, uint32_t seed, Make make,
                                  size_t copies = 1) {
  const std::vector<uint32_t> words = random_words(count, seed);
  std::vector<T> values(count);
  std::transform(words.begin(), words.end(), values.begin(), make);
  return std::make_unique<Data>(backend, values, copies);
}

Bf16 normal_bf16(uint32_t word) { return to_bf16(near_normal(word)); }
uint8_t normal_e4m3(uint32_t word) { return to_e4m3(8 * near_normal(word)); }

size_t copies_for(size_t bytes) { return std::max<size_t>(2, (kRotatedBytes + bytes - 1) / bytes); }
int calls_for(size_t copies) { return std::max(kLeastCalls, static_cast<int>(copies)); }

class Bench {
 public:
  Bench(const IndexerBench& bench, const std::function<void(const BenchLine&)>& take)
      : bench_(bench), take_(take), sizes_(sizes_of(bench.model)), backend_(*cuda_backend()) {
    for (const bool pdl : {false, true}) {
      for (const bool tuned : {false, true})
        streams_.push_back(make_cuda_stream({.pdl = pdl, .tuned = tuned}));
    }
    const int positions = bench.context;
    const auto half = static_cast<size_t>(kRope / 2);
    std::vector<float> cos(static_cast<size_t>(positions) * half);
    std::vector<float> sin(cos.size());
    for (int t = 0; t < positions; ++t) {
      for (size_t j = 0; j < half; ++j) {
        const double angle = t * std::pow(10000.0, -static_cast<double>(j) / static_cast<double>(half));
        cos[static_cast<size_t>(t) * half + j] = static_cast<float>(std::cos(angle));
        sin[static_cast<size_t>(t) * half + j] = static_cast<float>(std::sin(angle));
      }
    }
    cos_ = std::make_unique<Data>(backend_, cos);
    sin_ = std::make_unique<Data>(backend_, sin);
    rope_ = {{static_cast<float*>(cos_->copy()), positions, kRope / 2},
             {static_cast<float*>(sin_->copy()), positions, kRope / 2}};
  }

  void run() {
    for (const int tokens : bench_.tokens) {
      make_step(tokens);
      bench_prepare(tokens);
      bench_select(tokens);
    }
  }

 private:
  [[nodiscard]] int rows() const { return sizes_.shape.head_dim + sizes_.shape.num_heads; }
  [[nodiscard]] int query_rows() const { return sizes_.shape.head_dim * sizes_.shape.num_heads; }

  /// The last token of each of `tokens` sequences of the same length, over permuted pages.
  void make_step(int tokens) {
    const int pages = (bench_.context + kPageTokens - 1) / kPageTokens;
    std::vector<int32_t> position(static_cast<size_t>(tokens), bench_.context - 1);
    std::vector<int32_t> sequence(static_cast<size_t>(tokens));
    std::iota(sequence.begin(), sequence.end(), 0);
    num_pages_ = pages * tokens;
    std::vector<int32_t> order(static_cast<size_t>(num_pages_));
    std::iota(order.begin(), order.end(), 0);
    const std::vector<uint32_t> words = random_words(order.size(), 1);
    for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[words[i] % (i + 1)]);
    position_ = std::make_unique<Data>(backend_, position);
    sequence_ = std::make_unique<Data>(backend_, sequence);
    pages_ = std::make_unique<Data>(backend_, order);
    fault_ = std::make_unique<Data>(backend_, std::vector<uint32_t>(static_cast<size_t>(tokens)));
    batch_ = {.num_tokens = tokens,
              .num_sequences = tokens,
              .max_context = bench_.context,
              .token = static_cast<int32_t*>(sequence_->copy()),
              .position = static_cast<int32_t*>(position_->copy()),
              .sequence = static_cast<int32_t*>(sequence_->copy()),
              .pages = {static_cast<int32_t*>(pages_->copy()), tokens, pages},
              .fault = static_cast<uint32_t*>(fault_->copy())};
    query_ = random_data<uint8_t>(backend_, static_cast<size_t>(tokens) * static_cast<size_t>(query_rows()),
                                  2, normal_e4m3);
    head_weights_ = random_data<float>(
        backend_, static_cast<size_t>(tokens) * static_cast<size_t>(sizes_.shape.num_heads), 3, near_normal);
  }

  [[nodiscard]] Operand query(int tokens) const {
    return {query_->copy(), DType::kF8E4M3, tokens, query_rows(), query_rows()};
  }
  [[nodiscard]] Matrix<float> head_weights(int tokens) const {
    return {static_cast<float*>(head_weights_->copy()), tokens, sizes_.shape.num_heads};
  }

  /// Times `queue(context, call)` on both graphs, and the read of as many bytes.
  void measure(const std::string& what, const std::string& how, bool tuned, size_t bytes, size_t copies,
               const std::function<void(Context&, int call)>& queue) {
    BenchLine line{.what = what, .how = how, .tokens = batch_.num_tokens, .bytes = bytes};
    const auto time = [&](bool pdl) {
      cuda::Stream& stream = *streams_[(pdl ? 2U : 0U) + (tuned ? 1U : 0U)];
      Arena arena(backend_);
      Context context{.backend = &backend_, .stream = &stream, .arena = &arena};
      return Spread::of(
          time_replays(stream, calls_for(copies), bench_.replays, [&](int call) { queue(context, call); }));
    };
    line.without_pdl = time(false);
    line.with_pdl = time(true);
    line.limit_us = limit(bytes);
    take_(line);
  }

  double limit(size_t bytes) {
    if (const auto known = std::ranges::find(limits_, bytes, &std::pair<size_t, double>::first);
        known != limits_.end())
      return known->second;
    const size_t whole = bytes / 256 * 256;
    const size_t copies = copies_for(whole);
    const BackendBuffer buffer(backend_, whole * copies);
    const std::vector<uint32_t> words = random_words(whole / 4, 4);
    for (size_t i = 0; i < copies; ++i)
      backend_.upload(static_cast<std::byte*>(buffer.data()) + i * whole, words.data(), whole);
    Context context{.backend = &backend_, .stream = streams_[0].get()};
    const Spread times =
        Spread::of(time_replays(*streams_[0], calls_for(copies), bench_.replays, [&](int call) {
          queue_read(context,
                     static_cast<std::byte*>(buffer.data()) + static_cast<size_t>(call) % copies * whole,
                     whole);
        }));
    limits_.emplace_back(bytes, times.median);
    return times.median;
  }

  void bench_prepare(int tokens) {
    const auto count = static_cast<size_t>(tokens);
    const size_t projection_bytes = static_cast<size_t>(rows()) * static_cast<size_t>(sizes_.hidden) * 2;
    const size_t query_bytes = static_cast<size_t>(query_rows()) * static_cast<size_t>(sizes_.q_lora);
    const size_t copies = copies_for(projection_bytes);
    const auto projection = random_data<Bf16>(backend_, projection_bytes / 2, 5, normal_bf16, copies);
    const auto query_weights =
        random_data<uint8_t>(backend_, query_bytes, 6, normal_e4m3, copies_for(query_bytes));
    const int64_t blocks = query_rows() / kBlock * ((sizes_.q_lora + kBlock - 1) / kBlock);
    const Data scales(backend_, std::vector<float>(static_cast<size_t>(blocks), 0x1p-6F));
    const Data norm(backend_, std::vector<float>(static_cast<size_t>(sizes_.shape.head_dim), 1.0F));
    const auto x = random_data<Bf16>(backend_, count * static_cast<size_t>(sizes_.hidden), 7, normal_bf16);
    const auto q_latent =
        random_data<Bf16>(backend_, count * static_cast<size_t>(sizes_.q_lora), 8, normal_bf16);
    const PagedKeys layout{.dtype = DType::kF8E4M3, .num_pages = num_pages_, .width = sizes_.shape.head_dim};
    const BackendBuffer pool(backend_, layout.bytes());
    const BackendBuffer projected(backend_, count * static_cast<size_t>(rows()) * sizeof(float));

    const auto with_op = [&](IndexerProjection mode, int call, const auto& f) {
      const auto copy = static_cast<size_t>(call);
      const Weight gain{
          .form = WeightForm::kF32, .rows = 1, .cols = sizes_.shape.head_dim, .data = norm.copy()};
      const IndexerWeights weights{.wk_weights_proj = {.form = WeightForm::kBf16,
                                                       .rows = rows(),
                                                       .cols = sizes_.hidden,
                                                       .data = projection->copy(copy % copies)},
                                   .k_norm_gain = gain,
                                   .k_norm_bias = gain,
                                   .wq_b = {.form = WeightForm::kFp8,
                                            .rows = query_rows(),
                                            .cols = sizes_.q_lora,
                                            .data = query_weights->copy(copy % copies_for(query_bytes)),
                                            .scales = scales.copy(),
                                            .block_rows = kBlock,
                                            .block_cols = kBlock}};
      PagedKeys keys = layout;
      keys.data = pool.data();
      f(IndexerPrepare{{x->copy(), DType::kBf16, tokens, sizes_.hidden, sizes_.hidden},
                       {q_latent->copy(), DType::kBf16, tokens, sizes_.q_lora, sizes_.q_lora},
                       weights,
                       sizes_.shape,
                       mode,
                       rope_,
                       batch_,
                       query(tokens),
                       head_weights(tokens),
                       keys});
    };
    struct Way {
      const char* name;
      IndexerProjection mode;
      bool tuned;
    };
    bool own = false;
    with_op(IndexerProjection::kFused, 0, [&](const IndexerPrepare& op) { own = has_tuned_kernels(op); });
    for (const Way& way :
         {Way{"separate", IndexerProjection::kSeparate, false},
          Way{"overlapped", IndexerProjection::kOverlapped, false},
          Way{"fused", IndexerProjection::kFused, false}, Way{"own", IndexerProjection::kFused, true}}) {
      if (way.tuned && !own) continue;
      measure("projection", way.name, way.tuned, projection_bytes, copies, [&](Context& context, int call) {
        with_op(way.mode, call, [&](const IndexerPrepare& op) {
          queue_projection(context, op, {projected.data(), DType::kF32, tokens, rows(), rows()});
        });
      });
    }
    for (const Way& way :
         {Way{"separate", IndexerProjection::kSeparate, false},
          Way{"overlapped", IndexerProjection::kOverlapped, false},
          Way{"fused", IndexerProjection::kFused, false}, Way{"own", IndexerProjection::kFused, true}}) {
      if (way.tuned && !own) continue;
      measure("prepare", way.name, way.tuned, projection_bytes + query_bytes, copies,
              [&](Context& context, int call) {
                with_op(way.mode, call, [&](const IndexerPrepare& op) { fulgur::run(context, op); });
              });
    }
  }

  void bench_select(int tokens) {
    PagedKeys keys{.dtype = DType::kF8E4M3, .num_pages = num_pages_, .width = sizes_.shape.head_dim};
    const size_t copies = copies_for(keys.bytes());
    std::vector<uint8_t> pool(keys.bytes());
    const std::vector<uint32_t> words = random_words(pool.size() / 4, 9);
    const auto code_bytes = static_cast<size_t>(kPageTokens) * static_cast<size_t>(keys.width);
    for (size_t i = 0; i < pool.size(); ++i) {
      const uint32_t word = words[i / 4] * (2654435761U + static_cast<uint32_t>(i % 4));
      pool[i] = normal_e4m3(word);
    }
    const float one = 1;
    for (size_t page = 0; page < static_cast<size_t>(num_pages_); ++page) {
      for (size_t slot = 0; slot < kPageTokens; ++slot)
        std::copy_n(
            reinterpret_cast<const uint8_t*>(&one), sizeof one,
            pool.begin() + static_cast<int64_t>(page * keys.page_bytes() + code_bytes + slot * sizeof one));
    }
    const Data pools(backend_, pool, copies);
    const BackendBuffer selected(backend_, static_cast<size_t>(tokens) * kTopk * sizeof(int32_t));
    const auto op_of = [&](int call) {
      keys.data = pools.copy(static_cast<size_t>(call) % copies);
      return IndexerSelect{query(tokens), head_weights(tokens),
                           keys,          sizes_.shape,
                           batch_,        {static_cast<int32_t*>(selected.data()), tokens, kTopk}};
    };
    for (const bool tuned : {false, true}) {
      if (tuned && !has_tuned_kernels(op_of(0))) continue;
      measure("select", tuned ? "own" : "any shape", tuned, keys.bytes(), copies,
              [&](Context& context, int call) { fulgur::run(context, op_of(call)); });
    }
  }

  const IndexerBench& bench_;
  const std::function<void(const BenchLine&)>& take_;
  Sizes sizes_;
  const Backend& backend_;
  std::vector<std::shared_ptr<cuda::Stream>> streams_;  // PDL off and on, plain and tuned
  std::vector<std::pair<size_t, double>> limits_;       // of bytes
  std::unique_ptr<Data> cos_;
  std::unique_ptr<Data> sin_;
  RopeTable rope_;
  std::unique_ptr<Data> position_;
  std::unique_ptr<Data> sequence_;
  std::unique_ptr<Data> pages_;
  std::unique_ptr<Data> fault_;
  std::unique_ptr<Data> query_;
  std::unique_ptr<Data> head_weights_;
  TokenBatch batch_;
  int num_pages_ = 0;
};

}  // namespace

void bench_indexer(const IndexerBench& bench, const std::function<void(const BenchLine&)>& take) {
  if (const CudaStatus status = cuda_status(); !status.usable) {
    throw Error(Problem{.kind = ErrorKind::kDevice,
                        .message = status.why_not,
                        .expected = "an NVIDIA GPU of compute capability 9.0 (H100, H200)",
                        .todo = "run this where there is one; the CPU's ops have bench/ops_bench"});
  }
  Bench(bench, take).run();
}

}  // namespace fulgur
