// The dense ops at the shapes of mini-v32 and of DeepSeek-V3.2, bf16 activations and bf16 weights, for
// `linear` FP8 and NVFP4 ones too:
//
//   ops_bench                                        everything, on the instruction set that FULGUR_ISA or
//   the CPU says ops_bench --benchmark_filter='mini.*tokens:512'  prefill of the miniature
//
// GFLOP/s and its fraction of the measured FMA rate (of_peak) say how far prefill is from the cores' limit,
// GB/s of weights how far decode is from the memory's. Times are wall times.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "built_isas.h"
#include "kernels/cpu/cpu_backend.h"
#include "ops/context.h"
#include "ops/ffn.h"
#include "ops/linear.h"
#include "ops/mla_prepare.h"
#include "ops/moe.h"
#include "ops/norm.h"

namespace fulgur {
namespace cpu {

#define FULGUR_DECLARE(isa)                           \
  namespace isa {                                     \
  int64_t run_fma_probe(int64_t rounds, float* sink); \
  }
FULGUR_BUILT_ISAS(FULGUR_DECLARE)

}  // namespace cpu

namespace {

using benchmark::Counter;
using benchmark::State;

int64_t run_fma_probe(Isa isa, int64_t rounds, float* sink) {
#define FULGUR_CASE(built) \
  if (name(isa) == #built) return cpu::built::run_fma_probe(rounds, sink);
  FULGUR_BUILT_ISAS(FULGUR_CASE)
  return 0;
}

/// FLOP/s of one core, f32 FMAs: the best of several short runs.
double peak_flops() {
  constexpr int kRuns = 20;
  constexpr int64_t kRounds = 100000;
  const Isa isa = choose_isa();
  double best = 0;
  for (int i = 0; i < kRuns; ++i) {
    float sink = 0;
    const auto start = std::chrono::steady_clock::now();
    const int64_t flops = run_fma_probe(isa, kRounds, &sink);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    benchmark::DoNotOptimize(sink);
    best = std::max(best, static_cast<double>(flops) / seconds.count());
  }
  return best;
}

struct Machine {
  explicit Machine(int threads) : team(threads), arena(*cpu_backend(choose_isa())) {
    context = {.backend = cpu_backend(choose_isa()), .team = &team, .arena = &arena};
  }
  ThreadTeam team;
  Arena arena;
  Context context;
};

/// bf16 values of order 1.
class Bf16s {
 public:
  Bf16s(int64_t rows, int64_t cols) : rows_(rows), cols_(cols), values_(static_cast<size_t>(rows * cols)) {
    std::minstd_rand generator(1);
    for (Bf16& value : values_) value = to_bf16(static_cast<float>(generator() % 1024) / 512 - 1);
  }
  Weight weight() { return {WeightForm::kBf16, rows_, cols_, values_.data()}; }
  Operand operand() { return {values_.data(), DType::kBf16, rows_, cols_, cols_}; }

 private:
  int64_t rows_;
  int64_t cols_;
  std::vector<Bf16> values_;
};

/// A weight in FP8 blocks of 128 x 128, in NVFP4 or in bf16.
class Matrices {
 public:
  Matrices(WeightForm form, int64_t rows, int64_t cols)
      : codes_(static_cast<size_t>(rows * row_bytes(form, cols))) {
    std::minstd_rand generator(1);
    const auto byte = [&] { return static_cast<uint8_t>(generator() >> 8U); };
    weight_ = {.form = form, .rows = rows, .cols = cols, .data = codes_.data()};
    for (uint8_t& code : codes_) code = byte();
    if (form == WeightForm::kBf16) {
      for (size_t i = 1; i < codes_.size(); i += 2)
        codes_[i] = static_cast<uint8_t>((codes_[i] & 0x80U) | 0x3fU);
    } else if (form == WeightForm::kFp8) {
      constexpr int64_t kBlock = 128;
      // Weights are distributed normally, a block's largest at 448. That decides how many codes are
      // subnormal, and AVX2 decodes those into subnormal f32, which Intel's processors multiply slowly.
      std::normal_distribution<float> value(0, 448.0F / 4);
      for (uint8_t& code : codes_) code = to_e4m3(value(generator));
      block_scales_.assign(static_cast<size_t>((rows + kBlock - 1) / kBlock * ((cols + kBlock - 1) / kBlock)),
                           0.01F);
      weight_.scales = block_scales_.data();
      weight_.block_rows = kBlock;
      weight_.block_cols = kBlock;
    } else {
      group_scales_.resize(static_cast<size_t>(rows * cols / kNvfp4Group));
      for (uint8_t& scale : group_scales_) scale = static_cast<uint8_t>(0x30U + byte() % 16);
      weight_.scales = group_scales_.data();
      weight_.global = 0.01;
    }
  }
  [[nodiscard]] const Weight& weight() const { return weight_; }
  /// Of data and scales.
  [[nodiscard]] double bytes() const {
    return static_cast<double>(codes_.size() + block_scales_.size() * sizeof(float) + group_scales_.size());
  }

 private:
  Weight weight_;
  std::vector<uint8_t> codes_;
  std::vector<float> block_scales_;
  std::vector<uint8_t> group_scales_;
};

class F32s {
 public:
  F32s(int64_t rows, int64_t cols)
      : rows_(rows), cols_(cols), values_(static_cast<size_t>(rows * cols), 0.5F) {}
  Matrix<float> matrix() { return {values_.data(), rows_, cols_}; }
  Operand operand() { return {values_.data(), DType::kF32, rows_, cols_, cols_}; }

 private:
  int64_t rows_;
  int64_t cols_;
  std::vector<float> values_;
};

/// `flops` and `weight_bytes` are of one run.
void report(State& state, int threads, double flops, double weight_bytes) {
  static const double peak = peak_flops();
  const auto runs = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] = Counter(flops * runs / 1e9, Counter::kIsRate);
  state.counters["GB/s"] = Counter(weight_bytes * runs / 1e9, Counter::kIsRate);
  state.counters["of_peak"] = Counter(flops * runs / (peak * threads), Counter::kIsRate);
}

void linear(State& state, WeightForm form, int64_t rows, int64_t cols, int64_t tokens, int threads) {
  const Matrices w(form, rows, cols);
  Bf16s x(tokens, cols);
  F32s y(tokens, rows);
  Machine machine(threads);
  const Linear op{x.operand(), w.weight(), y.operand()};
  for (auto _ : state) run(machine.context, op);
  const auto weights = static_cast<double>(rows * cols);
  report(state, threads, 2 * weights * static_cast<double>(tokens), w.bytes());
}

void ffn(State& state, int64_t hidden, int64_t width, int64_t tokens, int threads) {
  Bf16s gate(width, hidden);
  Bf16s up(width, hidden);
  Bf16s down(hidden, width);
  Bf16s x(tokens, hidden);
  F32s delta(tokens, hidden);
  Machine machine(threads);
  const FfnWeights weights{gate.weight(), up.weight(), down.weight()};
  const Ffn op{x.operand(), weights, delta.matrix()};
  for (auto _ : state) run(machine.context, op);
  const auto count = static_cast<double>(3 * hidden * width);
  report(state, threads, 2 * count * static_cast<double>(tokens), 2 * count);
}

struct MoeCase {
  int64_t hidden;
  int64_t width;
  int num_experts;
  MoeShape shape;
};

void moe(State& state, const MoeCase& c, int64_t tokens, int threads) {
  Bf16s router(c.num_experts, c.hidden);
  F32s bias(1, c.num_experts);
  std::vector<Bf16s> matrices;
  for (int i = 0; i <= c.num_experts; ++i) {
    matrices.emplace_back(c.width, c.hidden);
    matrices.emplace_back(c.width, c.hidden);
    matrices.emplace_back(c.hidden, c.width);
  }
  std::vector<FfnWeights> experts;
  for (size_t i = 0; i < matrices.size(); i += 3) {
    experts.push_back({matrices[i].weight(), matrices[i + 1].weight(), matrices[i + 2].weight()});
  }
  MoeWeights weights{};
  weights.router = router.weight();
  weights.correction_bias = {WeightForm::kF32, 1, c.num_experts, bias.matrix().data};
  weights.shared = experts.back();
  experts.pop_back();
  weights.experts = experts;
  Bf16s x(tokens, c.hidden);
  F32s delta(tokens, c.hidden);
  std::vector<int32_t> sequence(static_cast<size_t>(tokens));
  uint32_t fault = 0;
  TokenBatch batch;
  batch.num_tokens = static_cast<int>(tokens);
  batch.num_sequences = 1;
  batch.sequence = sequence.data();
  batch.fault = &fault;
  Machine machine(threads);
  const Moe op{x.operand(), weights, c.shape, batch, delta.matrix(), {}, {}};
  for (auto _ : state) run(machine.context, op);
  const auto slots = static_cast<double>(tokens * (c.shape.experts_per_token + 1));
  const auto count = static_cast<double>(3 * c.hidden * c.width);
  report(state, threads, 2 * count * slots, 2 * count * std::min<double>(slots, c.num_experts + 1));
}

void mla_output(State& state, const MlaShape& shape, int64_t hidden, int64_t tokens, int threads) {
  const int64_t heads = shape.num_heads;
  Bf16s uv(heads * shape.value, shape.kv_lora);
  Bf16s o(hidden, heads * shape.value);
  Bf16s u(tokens, heads * shape.kv_lora);
  F32s delta(tokens, hidden);
  MlaWeights weights{};
  weights.uv = uv.weight();
  weights.o = o.weight();
  Machine machine(threads);
  const MlaOutput op{u.operand(), weights, shape, delta.matrix()};
  for (auto _ : state) run(machine.context, op);
  const auto count = static_cast<double>(heads * shape.value * (shape.kv_lora + hidden));
  report(state, threads, 2 * count * static_cast<double>(tokens), 2 * count);
}

void add_rms_norm(State& state, int64_t hidden, int64_t tokens, int threads) {
  F32s sum(tokens, hidden);
  F32s delta(tokens, hidden);
  Bf16s gain(1, hidden);
  Bf16s out(tokens, hidden);
  Machine machine(threads);
  const AddRmsNorm op{sum.matrix(), delta.matrix(), gain.weight(), 1e-6F, out.operand()};
  for (auto _ : state) run(machine.context, op);
  report(state, threads, 0, static_cast<double>(tokens * hidden * 14));
}

/// Registers body(state, tokens, threads).
template <typename Body>
void add(const std::string& name, int64_t tokens, int threads, Body body) {
  const std::string full = name + "/tokens:" + std::to_string(tokens) + "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(full.c_str(), [=](State& state) {
    body(state, tokens, threads);
  })->UseRealTime();
}

struct LinearCase {
  const char* name;
  int64_t rows;
  int64_t cols;
};
constexpr LinearCase kLinears[] = {
    {"mini/q_a", 128, 256},          {"mini/q_b", 256, 128},
    {"mini/kv_a", 160, 256},         {"mini/o", 256, 128},
    {"mini/gate", 512, 256},         {"mini/down", 256, 512},
    {"mini/head", 1280, 256},        {"v32/q_a", 1536, 7168},
    {"v32/q_b", 24576, 1536},        {"v32/wk_weights_proj", 192, 7168},
    {"v32/expert_gate", 2048, 7168}, {"v32/expert_down", 7168, 2048},
    {"v32/gate", 18432, 7168},
};
const MoeCase kMiniMoe{
    256,
    64,
    8,
    {.experts_per_token = 2, .num_groups = 4, .groups_kept = 2, .normalize = true, .scaling = 2.5F}};
const MlaShape kMiniMla{
    .num_heads = 4, .kv_lora = 128, .nope = 32, .rope = 32, .value = 32, .rope_interleave = true};

void add_all() {
  for (const int64_t tokens : {1, 2, 4, 64, 512}) {
    for (const int threads : {1, 2}) {
      for (const LinearCase& c : kLinears) {
        for (const WeightForm form : {WeightForm::kBf16, WeightForm::kFp8, WeightForm::kNvfp4}) {
          add(std::string("linear/") + c.name + "/" + std::string(name(form)), tokens, threads,
              [&c, form](State& state, int64_t t, int n) { linear(state, form, c.rows, c.cols, t, n); });
        }
      }
      add("ffn/mini", tokens, threads, [](State& state, int64_t t, int n) { ffn(state, 256, 512, t, n); });
      add("moe/mini", tokens, threads, [](State& state, int64_t t, int n) { moe(state, kMiniMoe, t, n); });
      add("mla_output/mini", tokens, threads,
          [](State& state, int64_t t, int n) { mla_output(state, kMiniMla, 256, t, n); });
      add("add_rms_norm/mini", tokens, threads,
          [](State& state, int64_t t, int n) { add_rms_norm(state, 256, t, n); });
    }
  }
}

}  // namespace
}  // namespace fulgur

int main(int argc, char** argv) {
  fulgur::add_all();
  benchmark::Initialize(&argc, argv);
  benchmark::AddCustomContext("back end", std::string(fulgur::cpu_backend(fulgur::choose_isa())->name));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
