// One layer's attention ops of mini-v32 and of V3.2: a prompt in steps of 512 tokens, and one decoded token.
//
//   attention_bench --benchmark_filter='mini/.*/threads:2'
//
// FLOPS counts two for each multiply-add of the products; `share` is its part of one core's FMA peak times
// the threads, where FULGUR_BENCH_PEAK gives a core's peak in GFLOP/s.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "kernels/cpu/cpu_backend.h"
#include "ops/arena.h"
#include "ops/context.h"
#include "ops/indexer_prepare.h"
#include "ops/indexer_select.h"
#include "ops/mla_attention.h"
#include "ops/mla_prepare.h"

namespace fulgur {
namespace {

constexpr int kStepTokens = 512;

struct Dims {
  const char* name;
  int hidden, q_lora, heads, kv_lora, nope, rope;
  int index_heads, index_dim, topk;
};
constexpr Dims kMini{"mini", 256, 128, 4, 128, 32, 32, 4, 64, 128};
constexpr Dims kV32{"v32", 7168, 1536, 128, 512, 128, 64, 64, 128, 2048};

std::vector<Bf16> random_bf16(int64_t count, float scale) {
  static std::mt19937 generator(1);
  std::normal_distribution<float> normal(0, scale);
  std::vector<Bf16> repeated(static_cast<size_t>(std::min<int64_t>(count, 1 << 20)));
  for (Bf16& x : repeated) x = to_bf16(normal(generator));
  std::vector<Bf16> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = repeated[i % repeated.size()];
  return values;
}

/// A sequence of `context` cached tokens and the operands of a step of up to `rows` tokens.
class Layer {
 public:
  Layer(const Dims& dims, int context, int rows, int threads)
      : dims_(dims), team_(threads), arena_(*cpu_backend(choose_isa())) {
    context_ = {.backend = cpu_backend(choose_isa()), .team = &team_, .arena = &arena_};
    const int num_pages = (context + kPageTokens - 1) / kPageTokens;
    pages_.resize(static_cast<size_t>(num_pages));
    std::iota(pages_.begin(), pages_.end(), 0);
    std::shuffle(pages_.begin(), pages_.end(), std::mt19937(2));
    keys_ = {.dtype = DType::kBf16, .num_pages = num_pages, .width = dims.index_dim};
    latents_ = {.dtype = DType::kBf16, .num_pages = num_pages, .width = dims.kv_lora + dims.rope};
    keys_.data = add(static_cast<int64_t>(keys_.bytes() / 2), 1);
    latents_.data = add(static_cast<int64_t>(latents_.bytes() / 2), 1);
    x_ = operand(rows, dims.hidden);
    q_latent_ = operand(rows, dims.q_lora);
    q_ = operand(rows, int64_t{dims.heads} * (dims.kv_lora + dims.rope));
    u_ = operand(rows, int64_t{dims.heads} * dims.kv_lora);
    index_q_ = operand(rows, int64_t{dims.index_heads} * dims.index_dim);
    head_weights_.assign(static_cast<size_t>(rows) * dims.index_heads, 0.1F);
    selected_.resize(static_cast<size_t>(rows) * dims.topk);
    position_.resize(static_cast<size_t>(rows));
    sequence_.resize(static_cast<size_t>(rows));
    rope_.assign(static_cast<size_t>(context) * dims.rope / 2, 0.7F);
    mla_weights_ = {.q_a = weight(dims.q_lora, dims.hidden),
                    .q_a_norm = weight(1, dims.q_lora),
                    .q_b = weight(int64_t{dims.heads} * (dims.nope + dims.rope), dims.q_lora),
                    .kv_a = weight(dims.kv_lora + dims.rope, dims.hidden),
                    .kv_a_norm = weight(1, dims.kv_lora),
                    .uk = weight(int64_t{dims.heads} * dims.kv_lora, dims.nope)};
    indexer_weights_ = {weight(dims.index_dim + dims.index_heads, dims.hidden), weight(1, dims.index_dim),
                        weight(1, dims.index_dim),
                        weight(int64_t{dims.index_heads} * dims.index_dim, dims.q_lora)};
    mla_shape_ = {dims.heads, dims.kv_lora, dims.nope, dims.rope, dims.nope, true};
    indexer_shape_ = {dims.index_heads, dims.index_dim, dims.rope, false};
  }

  /// Sets the step's tokens to [first, first + count); each reads evenly spread positions, unless selected
  /// anew.
  void set_step(int first, int count) {
    for (int t = 0; t < count; ++t) {
      position_[static_cast<size_t>(t)] = first + t;
      for (int i = 0; i < dims_.topk; ++i) {
        const int64_t position =
            first + t < dims_.topk ? (i <= first + t ? i : -1) : int64_t{i} * (first + t + 1) / dims_.topk;
        selected_[static_cast<size_t>(t * dims_.topk + i)] = static_cast<int32_t>(position);
      }
    }
    batch_ = {.num_tokens = count,
              .num_sequences = 1,
              .max_context = first + count,
              .position = position_.data(),
              .sequence = sequence_.data(),
              .pages = {pages_.data(), 1, static_cast<int64_t>(pages_.size())},
              .fault = &fault_};
  }

  void mla_prepare() {
    const RopeTable rope = rope_table();
    run(context_,
        MlaPrepare{rows(x_), mla_weights_, mla_shape_, rope, batch_, rows(q_latent_), rows(q_), latents_});
  }
  void indexer_prepare(IndexerProjection projection) {
    const RopeTable rope = rope_table();
    run(context_, IndexerPrepare{rows(x_),
                                 rows(q_latent_),
                                 indexer_weights_,
                                 indexer_shape_,
                                 projection,
                                 rope,
                                 batch_,
                                 rows(index_q_),
                                 {head_weights_.data(), batch_.num_tokens, dims_.index_heads},
                                 keys_});
  }
  void indexer_select() {
    run(context_, IndexerSelect{rows(index_q_),
                                {head_weights_.data(), batch_.num_tokens, dims_.index_heads},
                                keys_,
                                indexer_shape_,
                                batch_,
                                {selected_.data(), batch_.num_tokens, dims_.topk}});
  }
  void sparse_mla() {
    run(context_, SparseMla{rows(q_),
                            latents_,
                            batch_,
                            {selected_.data(), batch_.num_tokens, dims_.topk},
                            mla_shape_,
                            0.1F,
                            rows(u_)});
  }
  void dense_mla() { run(context_, DenseMla{rows(q_), latents_, batch_, mla_shape_, 0.1F, rows(u_)}); }

 private:
  Bf16* add(int64_t count, float scale) {
    memory_.push_back(std::make_unique<std::vector<Bf16>>(random_bf16(count, scale)));
    return memory_.back()->data();
  }
  Weight weight(int64_t rows, int64_t cols) {
    return {WeightForm::kBf16, rows, cols, add(rows * cols, 1 / std::sqrt(static_cast<float>(cols)))};
  }
  Operand operand(int64_t rows, int64_t cols) {
    return {add(rows * cols, 1), DType::kBf16, rows, cols, cols};
  }
  [[nodiscard]] Operand rows(Operand all) const {
    all.rows = batch_.num_tokens;
    return all;
  }
  [[nodiscard]] RopeTable rope_table() const {
    const Matrix<const float> half(rope_.data(), static_cast<int64_t>(rope_.size()) / (dims_.rope / 2),
                                   dims_.rope / 2);
    return {half, half};
  }

  Dims dims_;
  ThreadTeam team_;
  Arena arena_;
  Context context_;
  std::vector<std::unique_ptr<std::vector<Bf16>>> memory_;
  std::vector<int32_t> pages_;
  std::vector<int32_t> position_;
  std::vector<int32_t> sequence_;
  std::vector<int32_t> selected_;
  std::vector<float> head_weights_;
  std::vector<float> rope_;
  uint32_t fault_ = 0;
  Operand x_, q_latent_, q_, u_, index_q_;
  MlaWeights mla_weights_;
  IndexerWeights indexer_weights_;
  MlaShape mla_shape_{};
  IndexerShape indexer_shape_{};
  PagedKeys keys_;
  PagedLatents latents_;
  TokenBatch batch_;
};

struct OpUnderTest {
  const char* name;
  void (*run)(Layer&);
  /// Multiply-adds of a token at `position`.
  double (*multiply_adds)(const Dims&, int position);
};

double projected(const Dims& d) {
  return double{1} * d.hidden * (d.q_lora + d.kv_lora + d.rope) +
         double{1} * d.heads * (double{1} * d.q_lora * (d.nope + d.rope) + double{1} * d.nope * d.kv_lora);
}
double indexer_projected(const Dims& d) {
  return double{1} * d.hidden * (d.index_dim + d.index_heads) +
         double{1} * d.q_lora * d.index_heads * d.index_dim;
}
double attended(const Dims& d, int keys) { return double{1} * keys * d.heads * (2 * d.kv_lora + d.rope); }

const OpUnderTest kOps[] = {
    {"mla_prepare", [](Layer& l) { l.mla_prepare(); }, [](const Dims& d, int) { return projected(d); }},
    {"indexer_prepare_fused", [](Layer& l) { l.indexer_prepare(IndexerProjection::kFused); },
     [](const Dims& d, int) { return indexer_projected(d); }},
    {"indexer_prepare_separate", [](Layer& l) { l.indexer_prepare(IndexerProjection::kSeparate); },
     [](const Dims& d, int) { return indexer_projected(d); }},
    {"indexer_select", [](Layer& l) { l.indexer_select(); },
     [](const Dims& d, int p) { return p < d.topk ? 0 : double{1} * (p + 1) * d.index_heads * d.index_dim; }},
    {"sparse_mla", [](Layer& l) { l.sparse_mla(); },
     [](const Dims& d, int p) { return attended(d, std::min(p + 1, d.topk)); }},
    {"dense_mla", [](Layer& l) { l.dense_mla(); }, [](const Dims& d, int p) { return attended(d, p + 1); }},
};

/// Tokens [first, end) in steps, again and again.
void measure(benchmark::State& state, const Dims& dims, const OpUnderTest& op, int first, int end) {
  const auto threads = static_cast<int>(state.range(0));
  Layer layer(dims, end, std::min(end - first, kStepTokens), threads);
  for (auto _ : state) {
    for (int t = first; t < end; t += kStepTokens) {
      state.PauseTiming();
      layer.set_step(t, std::min(end - t, kStepTokens));
      state.ResumeTiming();
      op.run(layer);
    }
  }
  double flops = 0;
  for (int position = first; position < end; ++position) flops += 2 * op.multiply_adds(dims, position);
  state.counters["FLOPS"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  if (const char* peak = std::getenv("FULGUR_BENCH_PEAK"); peak != nullptr) {
    state.counters["share"] = benchmark::Counter(flops / (std::atof(peak) * 1e9 * threads),
                                                 benchmark::Counter::kIsIterationInvariantRate);
  }
}

/// One token, again and again: its step is set once.
void measure_decode(benchmark::State& state, const Dims& dims, const OpUnderTest& op, int position) {
  const auto threads = static_cast<int>(state.range(0));
  Layer layer(dims, position + 1, 1, threads);
  layer.set_step(position, 1);
  for (auto _ : state) op.run(layer);
  const double flops = 2 * op.multiply_adds(dims, position);
  state.counters["FLOPS"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

const bool kRegistered = [] {
  for (const OpUnderTest& op : kOps) {
    for (const int threads : {1, 2}) {
      const auto add = [&](const std::string& name, auto body) {
        benchmark::RegisterBenchmark((name + "/" + op.name + "/threads").c_str(), body)
            ->Arg(threads)
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
      };
      add("mini/prompt4000", [op](benchmark::State& s) { measure(s, kMini, op, 0, 4000); });
      add("mini/chunk64at2000", [op](benchmark::State& s) { measure(s, kMini, op, 2000, 2064); });
      add("mini/decode2000", [op](benchmark::State& s) { measure_decode(s, kMini, op, 1999); });
      add("v32/chunk64at8192", [op](benchmark::State& s) { measure(s, kV32, op, 8192, 8256); });
      add("v32/decode8192", [op](benchmark::State& s) { measure_decode(s, kV32, op, 8191); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace fulgur
