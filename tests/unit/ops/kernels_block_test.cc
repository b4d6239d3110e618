#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels_support.h"
#include "ops/ffn.h"
#include "ops/mla_prepare.h"
#include "ops/moe.h"

namespace fulgur {
namespace {

using test::Machine;
using test::random_values;
using test::runnable_isas;
using test::Values;

/// Rows [first, first + count) of an operand.
Operand rows_of(Operand x, int64_t first, int64_t count) {
  x.data = x.dtype == DType::kF32 ? static_cast<void*>(x.row<float>(first)) : x.row<Bf16>(first);
  x.rows = count;
  return x;
}

double silu(double x) { return x / (1 + std::exp(-x)); }

/// The three matrices of a gated FFN, and its value in double.
struct TestFfn {
  TestFfn(DType gate_form, DType up_form, int64_t width, int64_t hidden, uint32_t seed)
      : gate(random_values(gate_form, width, hidden, seed, 0.1F)),
        up(random_values(up_form, width, hidden, seed + 1, 0.1F)),
        down(random_values(gate_form, hidden, width, seed + 2, 0.1F)) {}
  Values gate;
  Values up;
  Values down;
  FfnWeights weights() { return {gate.weight(), up.weight(), down.weight()}; }

  [[nodiscard]] std::vector<double> apply(const Values& x, int64_t t) const {
    std::vector<double> gated(static_cast<size_t>(gate.rows));
    for (int64_t i = 0; i < gate.rows; ++i) {
      double g = 0;
      double u = 0;
      for (int64_t k = 0; k < gate.cols; ++k) {
        g += double{x.at(t, k)} * gate.at(i, k);
        u += double{x.at(t, k)} * up.at(i, k);
      }
      gated[static_cast<size_t>(i)] = silu(g) * u;
    }
    std::vector<double> out(static_cast<size_t>(down.rows));
    for (int64_t o = 0; o < down.rows; ++o) {
      for (int64_t i = 0; i < down.cols; ++i)
        out[static_cast<size_t>(o)] += gated[static_cast<size_t>(i)] * down.at(o, i);
    }
    return out;
  }
};

std::string describe(Isa isa, DType x) { return std::string(name(isa)) + " x " + std::string(name(x)); }

TEST(Ffn, IsSiluOfGateTimesUpThroughDown) {
  for (const Isa isa : runnable_isas()) {
    for (const DType up_form : {DType::kBf16, DType::kF32}) {
      TestFfn ffn(DType::kBf16, up_form, 72, 144, 1);
      Values x = random_values(DType::kF32, 9, 144, 5);
      Values delta = random_values(DType::kF32, 9, 144, 6);
      const FfnWeights weights = ffn.weights();
      Machine machine(isa, 2);
      run(machine.context, Ffn{x.operand(), weights, {delta.wide.data(), 9, 144}});
      for (int64_t t = 0; t < 9; ++t) {
        const std::vector<double> exact = ffn.apply(x, t);
        // Values of order 1 through sums of 144 and 72 terms: some 300 roundings of 2^-24.
        for (int64_t i = 0; i < 144; ++i)
          EXPECT_NEAR(delta.at(t, i), exact[static_cast<size_t>(i)], 2e-5) << name(isa);
      }
    }
  }
}

TEST(Ffn, GivesTheSameBitsForOneRowAndManyAndAnyThreads) {
  for (const Isa isa : runnable_isas()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      SCOPED_TRACE(describe(isa, dtype));
      TestFfn ffn(DType::kBf16, DType::kBf16, 136, 160, 1);
      const FfnWeights weights = ffn.weights();
      Values x = random_values(dtype, 101, 160, 5);
      Values all = random_values(DType::kF32, 101, 160, 6);
      Machine machine(isa, 1);
      run(machine.context, Ffn{x.operand(), weights, {all.wide.data(), 101, 160}});
      for (const auto& [threads, rows] : {std::pair<int, int64_t>{1, 1}, {1, 7}, {2, 7}, {3, 64}, {4, 101}}) {
        Machine team(isa, threads);
        Values parts = random_values(DType::kF32, 101, 160, 7);
        for (int64_t t = 0; t < 101; t += rows) {
          const int64_t count = std::min<int64_t>(rows, 101 - t);
          run(team.context,
              Ffn{rows_of(x.operand(), t, count), weights, {parts.wide.data() + t * 160, count, 160}});
        }
        ASSERT_EQ(parts.wide, all.wide) << threads << " threads, " << rows << " rows at once";
      }
    }
  }
}

TEST(MlaOutput, IsUvHeadByHeadAndThenTheOutputProjection) {
  constexpr int64_t kTokens = 67;
  const MlaShape shape{
      .num_heads = 3, .kv_lora = 40, .nope = 16, .rope = 8, .value = 20, .rope_interleave = true};
  for (const Isa isa : runnable_isas()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      SCOPED_TRACE(describe(isa, dtype));
      Values uv = random_values(DType::kBf16, 60, 40, 1, 0.2F);
      Values o = random_values(DType::kBf16, 144, 60, 2, 0.2F);
      Values u = random_values(dtype, kTokens, 120, 3);
      MlaWeights weights{};
      weights.uv = uv.weight();
      weights.o = o.weight();
      Values whole = random_values(DType::kF32, kTokens, 144, 4);
      Machine machine(isa, 1);
      run(machine.context, MlaOutput{u.operand(), weights, shape, {whole.wide.data(), kTokens, 144}});
      for (int64_t t = 0; t < kTokens; ++t) {
        std::vector<double> values(60);
        for (int64_t i = 0; i < 60; ++i) {
          for (int64_t k = 0; k < 40; ++k)
            values[static_cast<size_t>(i)] += double{uv.at(i, k)} * u.at(t, i / 20 * 40 + k);
        }
        for (int64_t i = 0; i < 144; ++i) {
          double exact = 0;
          double magnitude = 0;
          for (int64_t k = 0; k < 60; ++k) {
            exact += o.at(i, k) * values[static_cast<size_t>(k)];
            magnitude += std::abs(o.at(i, k) * values[static_cast<size_t>(k)]);
          }
          // One rounding of each value to its dtype, and 2 * (40 + 60) of f32.
          const double eps = (dtype == DType::kBf16 ? 0x1p-9 : 0) + 200 * 0x1p-24;
          ASSERT_NEAR(whole.at(t, i), exact, magnitude * eps + 1e-5);
        }
      }
      for (const auto& [threads, rows] : {std::pair<int, int64_t>{1, 1}, {2, 5}, {3, 67}}) {
        Machine team(isa, threads);
        Values parts = random_values(DType::kF32, kTokens, 144, 5);
        for (int64_t t = 0; t < kTokens; t += rows) {
          const int64_t count = std::min(rows, kTokens - t);
          run(team.context,
              MlaOutput{
                  rows_of(u.operand(), t, count), weights, shape, {parts.wide.data() + t * 144, count, 144}});
        }
        ASSERT_EQ(parts.wide, whole.wide) << threads << " threads, " << rows << " rows at once";
      }
    }
  }
}

/// A layer's experts, its router, and a batch of one sequence a token.
struct TestMoe {
  TestMoe(int num_experts, int64_t width, int64_t hidden, bool with_shared, const MoeShape& routing)
      : shape(routing),
        router(random_values(DType::kBf16, num_experts, hidden, 11)),
        bias(random_values(DType::kF32, 1, num_experts, 12, 0.1F)),
        shared(DType::kBf16, DType::kBf16, 2 * width, hidden, 13) {
    for (int e = 0; e < num_experts; ++e) {
      // One expert has another form of up than of gate.
      experts.emplace_back(DType::kBf16, e == 1 ? DType::kF32 : DType::kBf16, width, hidden,
                           100 + 3 * static_cast<uint32_t>(e));
    }
    for (TestFfn& expert : experts) expert_weights.push_back(expert.weights());
    weights.router = router.weight();
    weights.correction_bias = bias.weight();
    weights.experts = expert_weights;
    if (with_shared) weights.shared = shared.weights();
  }
  MoeShape shape;
  Values router;
  Values bias;
  TestFfn shared;
  std::vector<TestFfn> experts;
  std::vector<FfnWeights> expert_weights;
  MoeWeights weights;

  struct Result {
    std::vector<float> delta;
    std::vector<int32_t> chosen;
    std::vector<float> chosen_weights;
    std::vector<uint32_t> fault;
  };
  Result run_rows(Machine& machine, Values& x, int64_t first, int64_t count) const {
    Result r;
    const auto k = static_cast<int64_t>(shape.experts_per_token);
    r.delta.assign(static_cast<size_t>(count * x.cols), 7);
    r.chosen.assign(static_cast<size_t>(count * k), 7);
    r.chosen_weights.assign(static_cast<size_t>(count * k), 7);
    r.fault.assign(static_cast<size_t>(count), 0);
    std::vector<int32_t> sequence(static_cast<size_t>(count));
    for (int64_t t = 0; t < count; ++t) sequence[static_cast<size_t>(t)] = static_cast<int32_t>(t);
    TokenBatch batch;
    batch.num_tokens = static_cast<int>(count);
    batch.num_sequences = batch.num_tokens;
    batch.sequence = sequence.data();
    batch.fault = r.fault.data();
    run(machine.context, Moe{rows_of(x.operand(), first, count),
                             weights,
                             shape,
                             batch,
                             {r.delta.data(), count, x.cols},
                             {r.chosen.data(), count, k},
                             {r.chosen_weights.data(), count, k}});
    return r;
  }
};

constexpr MoeShape kGrouped{
    .experts_per_token = 3, .num_groups = 4, .groups_kept = 2, .normalize = true, .scaling = 2.5F};
constexpr MoeShape kPlain{
    .experts_per_token = 2, .num_groups = 1, .groups_kept = 1, .normalize = false, .scaling = 1};

/// The router's choice, written from the spec, in double.
std::vector<std::pair<int32_t, double>> route(const TestMoe& moe, const Values& x, int64_t t) {
  const auto num_experts = static_cast<int>(moe.experts.size());
  std::vector<double> score(static_cast<size_t>(num_experts));
  std::vector<double> choice(score);
  for (int e = 0; e < num_experts; ++e) {
    double logit = 0;
    for (int64_t k = 0; k < x.cols; ++k) logit += double{x.at(t, k)} * moe.router.at(e, k);
    score[static_cast<size_t>(e)] = 1 / (1 + std::exp(-logit));
    choice[static_cast<size_t>(e)] = score[static_cast<size_t>(e)] + moe.bias.at(0, e);
  }
  const int width = num_experts / moe.shape.num_groups;
  std::vector<std::pair<double, int>> groups;
  for (int g = 0; g < moe.shape.num_groups; ++g) {
    std::vector<double> block(choice.begin() + g * width, choice.begin() + (g + 1) * width);
    std::sort(block.rbegin(), block.rend());
    groups.emplace_back(-(block[0] + block[1]), g);
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<double, int>> order;
  for (int u = 0; u < moe.shape.groups_kept; ++u) {
    for (int i = 0; i < width; ++i) {
      const int e = groups[static_cast<size_t>(u)].second * width + i;
      order.emplace_back(-choice[static_cast<size_t>(e)], e);
    }
  }
  std::sort(order.begin(), order.end());
  std::vector<std::pair<int32_t, double>> chosen;
  double total = 0;
  for (int j = 0; j < moe.shape.experts_per_token; ++j) {
    const int e = order[static_cast<size_t>(j)].second;
    chosen.emplace_back(e, score[static_cast<size_t>(e)]);
    total += score[static_cast<size_t>(e)];
  }
  std::sort(chosen.begin(), chosen.end());
  for (auto& [e, weight] : chosen)
    weight *= (moe.shape.normalize ? 1 / (total + 1e-20) : 1) * moe.shape.scaling;
  return chosen;
}

TEST(Moe, AddsTheChosenExpertsAndTheSharedOne) {
  for (const Isa isa : runnable_isas()) {
    for (const bool grouped : {true, false}) {
      TestMoe moe(8, 24, 48, grouped, grouped ? kGrouped : kPlain);
      Values x = random_values(DType::kF32, 30, 48, 3);
      Machine machine(isa, 2);
      const TestMoe::Result r = moe.run_rows(machine, x, 0, 30);
      const auto k = static_cast<size_t>(moe.shape.experts_per_token);
      for (int64_t t = 0; t < 30; ++t) {
        std::vector<double> exact = grouped ? moe.shared.apply(x, t) : std::vector<double>(48);
        const auto chosen = route(moe, x, t);
        for (size_t j = 0; j < k; ++j) {
          ASSERT_EQ(r.chosen[static_cast<size_t>(t) * k + j], chosen[j].first) << name(isa) << " token " << t;
          ASSERT_NEAR(r.chosen_weights[static_cast<size_t>(t) * k + j], chosen[j].second, 1e-5);
          const std::vector<double> out = moe.experts[static_cast<size_t>(chosen[j].first)].apply(x, t);
          for (size_t i = 0; i < 48; ++i) exact[i] += chosen[j].second * out[i];
        }
        // Values of order 1, sums of 48 and 24 terms for each of at most 4 experts.
        for (size_t i = 0; i < 48; ++i)
          ASSERT_NEAR(r.delta[static_cast<size_t>(t) * 48 + i], exact[i], 2e-5) << name(isa);
        EXPECT_EQ(r.fault[static_cast<size_t>(t)], 0);
      }
    }
  }
}

TEST(Moe, GivesTheSameBitsForOneRowAndManyAndAnyThreads) {
  constexpr int64_t kTokens = 600;  // more than a tile; experts in several waves
  for (const Isa isa : runnable_isas()) {
    for (const DType dtype : {DType::kBf16, DType::kF32}) {
      SCOPED_TRACE(describe(isa, dtype));
      TestMoe moe(8, 24, 48, true, kGrouped);
      Values x = random_values(dtype, kTokens, 48, 3);
      Machine machine(isa, 1);
      const TestMoe::Result whole = moe.run_rows(machine, x, 0, kTokens);
      for (const auto& [threads, rows] : {std::pair<int, int64_t>{1, 1}, {2, 37}, {4, 600}}) {
        Machine team(isa, threads);
        std::vector<float> delta;
        for (int64_t t = 0; t < kTokens; t += rows) {
          const TestMoe::Result part = moe.run_rows(team, x, t, std::min(rows, kTokens - t));
          delta.insert(delta.end(), part.delta.begin(), part.delta.end());
        }
        ASSERT_EQ(delta, whole.delta) << threads << " threads, " << rows << " rows at once";
      }
    }
  }
}

TEST(Moe, TakesTheLowerExpertAndGroupOfEqualScores) {
  for (const Isa isa : runnable_isas()) {
    TestMoe moe(8, 24, 48, true, kGrouped);
    std::fill(moe.bias.wide.begin(), moe.bias.wide.end(), 0.25F);
    Values x = random_values(DType::kF32, 1, 48, 3);
    std::fill(x.wide.begin(), x.wide.end(), 0.0F);
    Machine machine(isa, 1);
    EXPECT_EQ(moe.run_rows(machine, x, 0, 1).chosen, (std::vector<int32_t>{0, 1, 2})) << name(isa);
  }
}

TEST(Moe, FaultsTheSequenceOfANanAndLeavesTheOthersAlone) {
  for (const Isa isa : runnable_isas()) {
    TestMoe moe(8, 24, 48, true, kGrouped);
    Values x = random_values(DType::kF32, 5, 48, 3);
    Machine machine(isa, 2);
    const TestMoe::Result clean = moe.run_rows(machine, x, 0, 5);
    x.wide[2 * 48 + 17] = std::numeric_limits<float>::quiet_NaN();
    const TestMoe::Result r = moe.run_rows(machine, x, 0, 5);
    EXPECT_EQ(r.fault, (std::vector<uint32_t>{0, 0, kFaultNan, 0, 0}));
    for (size_t i = 0; i < r.delta.size(); ++i)
      EXPECT_EQ(r.delta[i], i / 48 == 2 ? 0 : clean.delta[i]) << name(isa);
  }
}

}  // namespace
}  // namespace fulgur
