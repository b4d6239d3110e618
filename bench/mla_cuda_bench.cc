// MLA's ops of one layer of V3.2 on the first GPU, by the kernels for any shape: bf16 weights and caches.
// Microseconds a call in a graph, median (least-most), PDL off and on; weights and entries rotate over 200
// MB.
//
//   cuda_mla_bench

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "ops/arena.h"
#include "ops/context.h"
#include "ops/mla_attention.h"
#include "ops/mla_prepare.h"
#include "runtime/indexer_bench_step.h"
#include "runtime/spread.h"

namespace fulgur {
namespace {

constexpr int kHidden = 7168;
constexpr int kQLora = 1536;
constexpr int kHeads = 128;
constexpr int kKvLora = 512;
constexpr int kNope = 128;
constexpr int kRope = 64;
constexpr int kTopk = 2048;
constexpr int kCalls = 64;
constexpr int kReplays = 21;
constexpr MlaShape kShape{.num_heads = kHeads,
                          .kv_lora = kKvLora,
                          .nope = kNope,
                          .rope = kRope,
                          .value = kNope,
                          .rope_interleave = true};

/// bf16 near +-1 of random bits, two to a word.
std::vector<uint32_t> random_values(size_t count, uint32_t seed) {
  std::vector<uint32_t> words = repeated_words((count + 1) / 2, seed);
  for (uint32_t& word : words) word = (word & 0x807F807F) | 0x3F003F00;
  return words;
}

class Layer {
 public:
  /// The last `tokens` of so many sequences of `context`.
  Layer(const Backend& backend, int tokens, int context) : backend_(backend), tokens_(tokens) {
    const int pages = context / kPageTokens;
    std::vector<int32_t> sequence(static_cast<size_t>(tokens));
    std::vector<int32_t> table(static_cast<size_t>(tokens) * static_cast<size_t>(pages));
    std::vector<int32_t> selected(static_cast<size_t>(tokens) * kTopk);
    for (size_t t = 0; t < sequence.size(); ++t) sequence[t] = static_cast<int32_t>(t);
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>((i * 7919) % table.size());
    for (size_t i = 0; i < selected.size(); ++i)
      selected[i] = static_cast<int32_t>(i % kTopk) * (context / kTopk);
    const std::vector<int32_t> position(sequence.size(), context - 1);
    batch_ = {.num_tokens = tokens,
              .num_sequences = tokens,
              .max_context = context,
              .token = at<int32_t>(keep(sequence)),
              .position = at<int32_t>(keep(position)),
              .sequence = at<int32_t>(keep(sequence)),
              .pages = {at<int32_t>(keep(table)), tokens, pages},
              .fault = at<uint32_t>(keep(std::vector<uint32_t>(sequence.size())))};
    selected_ = {at<int32_t>(keep(selected)), tokens, kTopk};
    const std::vector<float> angles(static_cast<size_t>(context) * kRope / 2, 0.7F);
    const Matrix<const float> half(at<float>(keep(angles)), context, kRope / 2);
    rope_ = {half, half};
    latents_ = {.num_pages = tokens * pages, .width = kKvLora + kRope, .rope = kRope};
    entries_ = &keep(random_values(latents_.bytes() / 2, 3), copies_for(latents_.bytes()));
    x_ = operand(kHidden);
    q_latent_ = operand(kQLora);
    q_ = operand(int64_t{kHeads} * (kKvLora + kRope));
    u_ = operand(int64_t{kHeads} * kKvLora);
    const std::vector<float> ones(kQLora, 1.0F);
    norm_ = keep(ones).copy();
    weights_ = &keep(random_values(kWeights, 4), copies_for(kWeights * sizeof(Bf16)));
  }

  void prepare(Context& context, int call) const {
    auto* at = static_cast<Bf16*>(weights_->copy(call));
    const auto next = [&](int64_t rows, int64_t cols) {
      const Weight weight{.form = WeightForm::kBf16, .rows = rows, .cols = cols, .data = at};
      at += rows * cols;
      return weight;
    };
    const auto norm = [&](int64_t cols) {
      return Weight{.form = WeightForm::kF32, .rows = 1, .cols = cols, .data = norm_};
    };
    const MlaWeights weights{.q_a = next(kQLora, kHidden),
                             .q_a_norm = norm(kQLora),
                             .q_b = next(int64_t{kHeads} * (kNope + kRope), kQLora),
                             .kv_a = next(kKvLora + kRope, kHidden),
                             .kv_a_norm = norm(kKvLora),
                             .uk = next(int64_t{kHeads} * kKvLora, kNope)};
    run(context, MlaPrepare{x_, weights, kShape, rope_, batch_, q_latent_, q_, latents(call)});
  }
  void sparse(Context& context, int call) const {
    run(context, SparseMla{q_, latents(call), batch_, selected_, kShape, 0.1F, u_});
  }
  void dense(Context& context, int call) const {
    run(context, DenseMla{q_, latents(call), batch_, kShape, 0.1F, u_});
  }

  static constexpr size_t kWeights = size_t{kQLora} * kHidden + size_t{kHeads} * (kNope + kRope) * kQLora +
                                     size_t{kKvLora + kRope} * kHidden + size_t{kHeads} * kKvLora * kNope;

 private:
  template <typename T>
  const RotatedData& keep(const std::vector<T>& values, size_t copies = 1) {
    return *data_.emplace_back(std::make_unique<RotatedData>(backend_, values, copies));
  }
  template <typename T>
  static T* at(const RotatedData& data) {
    return static_cast<T*>(data.copy());
  }
  Operand operand(int64_t cols) {
    return {keep(random_values(static_cast<size_t>(tokens_ * cols), 5)).copy(), DType::kBf16, tokens_, cols,
            cols};
  }
  [[nodiscard]] PagedLatents latents(int call) const {
    PagedLatents latents = latents_;
    latents.data = entries_->copy(call);
    return latents;
  }

  const Backend& backend_;
  const int tokens_;
  std::vector<std::unique_ptr<RotatedData>> data_;
  TokenBatch batch_;
  RopeTable rope_;
  Matrix<const int32_t> selected_;
  PagedLatents latents_;
  Operand x_, q_latent_, q_, u_;
  void* norm_ = nullptr;
  const RotatedData* entries_ = nullptr;
  const RotatedData* weights_ = nullptr;
};

std::string timed(const Backend& backend, bool pdl, const std::function<void(Context&, int)>& queue) {
  const auto stream = make_cuda_stream({.pdl = pdl});
  Arena arena(backend);
  Context context{.backend = &backend, .stream = stream.get(), .arena = &arena};
  const Spread us =
      Spread::of(time_replays(*stream, kCalls, kReplays, [&](int call) { queue(context, call); }));
  return fmt::format("{:.1f} ({:.1f}-{:.1f})", us.median, us.least, us.most);
}

void bench(const Backend& backend, int tokens, int context) {
  const Layer layer(backend, tokens, context);
  const auto line = [&](const char* op, size_t bytes, const std::function<void(Context&, int)>& queue) {
    fmt::print("{:<12} {:>4} x {:<6} {:>8.1f} MB  off {:<26} pdl {}\n", op, tokens, context,
               static_cast<double>(bytes) / 1e6, timed(backend, false, queue), timed(backend, true, queue));
    std::fflush(stdout);
  };
  const size_t entry = (kKvLora + kRope) * sizeof(Bf16);
  line("mla_prepare", Layer::kWeights * sizeof(Bf16), [&](Context& c, int call) { layer.prepare(c, call); });
  line("sparse_mla", static_cast<size_t>(tokens) * kTopk * entry,
       [&](Context& c, int call) { layer.sparse(c, call); });
  line("dense_mla", static_cast<size_t>(tokens) * static_cast<size_t>(context) * entry,
       [&](Context& c, int call) { layer.dense(c, call); });
}

}  // namespace
}  // namespace fulgur

int main() {
  const fulgur::CudaStatus status = fulgur::cuda_status();
  if (!status.usable) {
    fmt::print(stderr, "{}\n", status.why_not);
    return 1;
  }
  fmt::print("{}\n", status.device);
  for (const int tokens : {1, 8, 32}) fulgur::bench(*fulgur::cuda_backend(), tokens, 8192);
}
