// Prompts on a GPU: indexer_prepare cuts many rows into tiles, and a row's queries must not show it.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/counter_rng.h"
#include "kernels/cuda/cuda_backend.h"
#include "ops/arena.h"
#include "ops/buffer.h"
#include "ops/context.h"
#include "ops/indexer_prepare.h"

namespace fulgur::test {
namespace {

constexpr int kTile = 8192;  // at most so many rows go at once (kernels/cuda/indexer_prepare.cu)
constexpr int kRows = kTile + 129;
constexpr int kHidden = 64;
constexpr int kRank = 1536;
constexpr int kHeads = 4;
constexpr int kDim = 128;
constexpr int kRopePairs = 32;

template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : buffer_(*cuda_backend(), values.size() * sizeof(T)) {
    cuda_backend()->upload(buffer_.data(), values.data(), values.size() * sizeof(T));
  }
  [[nodiscard]] T* get() const { return static_cast<T*>(buffer_.data()); }

 private:
  BackendBuffer buffer_;
};

template <typename T, typename Make>
std::vector<T> drawn(size_t count, uint64_t seed, Make make) {
  std::vector<T> values(count);
  for (size_t i = 0; i < count; ++i)
    values[i] = make(static_cast<float>(2 * uniform_at(seed, static_cast<uint32_t>(i)) - 1));
  return values;
}

/// One sequence's prompt of kRows tokens.
class Prompt {
 public:
  Prompt() {
    const auto bf16 = [](float v) { return to_bf16(v); };
    x_ = std::make_unique<OnDevice<Bf16>>(drawn<Bf16>(size_t{kRows} * kHidden, 1, bf16));
    q_latent_ = std::make_unique<OnDevice<Bf16>>(drawn<Bf16>(size_t{kRows} * kRank, 2, bf16));
    wk_ = std::make_unique<OnDevice<Bf16>>(drawn<Bf16>(size_t{kDim + kHeads} * kHidden, 3, bf16));
    wq_ = std::make_unique<OnDevice<uint8_t>>(
        drawn<uint8_t>(size_t{kHeads} * kDim * kRank, 4, [](float v) { return to_e4m3(300 * v); }));
    scales_ = std::make_unique<OnDevice<float>>(
        drawn<float>(size_t{kHeads} * kRank / 128, 5, [](float v) { return 1e-3F * (1.5F + v); }));
    norm_ = std::make_unique<OnDevice<float>>(std::vector<float>(kDim, 1.0F));
    const auto angle = [](size_t i) {
      return static_cast<double>(i / kRopePairs) *
             std::pow(10000.0, -static_cast<double>(i % kRopePairs) / kRopePairs);
    };
    std::vector<float> cos(size_t{kRows} * kRopePairs);
    std::vector<float> sin(cos.size());
    for (size_t i = 0; i < cos.size(); ++i) {
      cos[i] = static_cast<float>(std::cos(angle(i)));
      sin[i] = static_cast<float>(std::sin(angle(i)));
    }
    cos_ = std::make_unique<OnDevice<float>>(cos);
    sin_ = std::make_unique<OnDevice<float>>(sin);
    std::vector<int32_t> numbers(kRows);
    std::iota(numbers.begin(), numbers.end(), 0);
    numbers_ = std::make_unique<OnDevice<int32_t>>(numbers);
    zeros_ = std::make_unique<OnDevice<int32_t>>(std::vector<int32_t>(kRows));
    pool_ = std::make_unique<OnDevice<uint8_t>>(std::vector<uint8_t>(keys_.bytes()));
  }

  /// The queries' codes of rows [first, first + count), computed as a batch of their own.
  std::vector<uint8_t> queries(int first, int count) {
    const OnDevice<uint8_t> q(std::vector<uint8_t>(static_cast<size_t>(count) * kRowCodes, 0x7F));
    const OnDevice<float> head_weights(std::vector<float>(static_cast<size_t>(count) * kHeads));
    const Weight gain{.form = WeightForm::kF32, .rows = 1, .cols = kDim, .data = norm_->get()};
    const IndexerWeights weights{.wk_weights_proj = {.form = WeightForm::kBf16,
                                                     .rows = kDim + kHeads,
                                                     .cols = kHidden,
                                                     .data = wk_->get()},
                                 .k_norm_gain = gain,
                                 .k_norm_bias = gain,
                                 .wq_b = {.form = WeightForm::kFp8,
                                          .rows = int64_t{kHeads} * kDim,
                                          .cols = kRank,
                                          .data = wq_->get(),
                                          .scales = scales_->get(),
                                          .block_rows = 128,
                                          .block_cols = 128}};
    const IndexerShape shape{
        .num_heads = kHeads, .head_dim = kDim, .rope = 2 * kRopePairs, .rope_interleave = false};
    const RopeTable rope{{cos_->get(), kRows, kRopePairs}, {sin_->get(), kRows, kRopePairs}};
    const TokenBatch batch{.num_tokens = count,
                           .num_sequences = 1,
                           .max_context = kRows,
                           .token = zeros_->get() + first,
                           .position = numbers_->get() + first,
                           .sequence = zeros_->get() + first,
                           .pages = {numbers_->get(), 1, keys_.num_pages},
                           .fault = nullptr};
    PagedKeys keys = keys_;
    keys.data = pool_->get();
    Arena arena(*cuda_backend());
    Context context{.backend = cuda_backend(), .stream = stream_.get(), .arena = &arena};
    run(context,
        IndexerPrepare{
            .x = {x_->get() + int64_t{first} * kHidden, DType::kBf16, count, kHidden, kHidden},
            .q_latent = {q_latent_->get() + int64_t{first} * kRank, DType::kBf16, count, kRank, kRank},
            .weights = weights,
            .shape = shape,
            .projection = IndexerProjection::kFused,
            .rope = rope,
            .batch = batch,
            .q = {q.get(), DType::kF8E4M3, count, kRowCodes, kRowCodes},
            .head_weights = {head_weights.get(), count, kHeads},
            .keys = keys});
    synchronize(*stream_);
    std::vector<uint8_t> codes(static_cast<size_t>(count) * kRowCodes);
    cuda_backend()->download(codes.data(), q.get(), codes.size());
    return codes;
  }
  static constexpr int kRowCodes = kHeads * kDim;

 private:
  std::shared_ptr<cuda::Stream> stream_ = make_cuda_stream();
  PagedKeys keys_{
      .dtype = DType::kF8E4M3, .num_pages = (kRows + kPageTokens - 1) / kPageTokens, .width = kDim};
  std::unique_ptr<OnDevice<Bf16>> x_, q_latent_, wk_;
  std::unique_ptr<OnDevice<uint8_t>> wq_, pool_;
  std::unique_ptr<OnDevice<float>> scales_, norm_, cos_, sin_;
  std::unique_ptr<OnDevice<int32_t>> numbers_, zeros_;
};

TEST(CudaPrompt, GivesARowTheSameQueriesWhateverRestThePromptLeaves) {
  if (!cuda_status().usable) GTEST_SKIP() << "No prompt was run.";
  Prompt prompt;
  const std::vector<uint8_t> all = prompt.queries(0, kRows);
  const auto same = [&](int first, int count) {
    const std::vector<uint8_t> part = prompt.queries(first, count);
    return std::memcmp(part.data(), all.data() + static_cast<size_t>(first) * Prompt::kRowCodes,
                       part.size()) == 0;
  };
  for (const int count : {129, kTile, kTile + 1, kTile + 128}) EXPECT_TRUE(same(0, count)) << count;
  EXPECT_TRUE(same(kTile, 129));
  EXPECT_TRUE(same(4000, 300));
  // Up to 128 tokens q_latent isn't rounded: if these agreed, the others would prove nothing.
  EXPECT_FALSE(same(kTile, 128));
}

}  // namespace
}  // namespace fulgur::test
