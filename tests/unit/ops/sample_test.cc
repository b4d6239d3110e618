// How tokens are drawn: the frequencies against the oracle's distribution, and on what a draw depends.

#include "ops/sample.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "reference/sample.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

class Sampling : public testing::TestWithParam<Tested> {
 protected:
  /// Draws once for each (seed, position) from the same logits.
  std::vector<int32_t> draw(const std::vector<float>& logits, SamplingParams params, int count,
                            const std::function<uint64_t(int)>& seed,
                            const std::function<int32_t(int)>& position) {
    std::vector<float> rows;
    std::vector<SamplingParams> all(static_cast<size_t>(count), params);
    std::vector<int32_t> positions;
    for (int i = 0; i < count; ++i) {
      rows.insert(rows.end(), logits.begin(), logits.end());
      all[static_cast<size_t>(i)].seed = seed(i);
      positions.push_back(position(i));
    }
    std::vector<int32_t> tokens(static_cast<size_t>(count), -7);
    const auto vocab = static_cast<int64_t>(logits.size());
    run(machine_.context(2),
        Sample{{rows.data(), count, vocab}, all.data(), positions.data(), tokens.data()});
    return tokens;
  }
  int32_t draw_one(const std::vector<float>& logits, SamplingParams params) {
    return draw(
               logits, params, 1, [&](int) { return params.seed; }, [](int) { return 5; })
        .front();
  }

  Machine machine_{*GetParam().backend};
};

constexpr int kDraws = 20000;

/// Chi-squared of `counts` over the cells that may occur; fails if another one did. Beyond mean + 6
/// deviations (+ a little, for the skewed tail of few degrees) lies less than 1e-6 of the distribution.
void expect_distributed(const std::vector<int32_t>& cells, const std::vector<double>& probability) {
  std::vector<double> counts(probability.size());
  for (const int32_t cell : cells) {
    ASSERT_TRUE(cell >= 0 && static_cast<size_t>(cell) < counts.size()) << cell;
    ++counts[static_cast<size_t>(cell)];
  }
  double chi_squared = 0;
  double degrees = -1;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probability[i] * static_cast<double>(cells.size());
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << "cell " << i << " was drawn though it is cut";
      continue;
    }
    chi_squared += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++degrees;
  }
  EXPECT_LT(chi_squared, degrees + 6 * std::sqrt(2 * degrees) + 12);
}

const std::vector<float> kLogits = {1.5F, -0.5F, 2.0F, 0.3F,  2.0F, -2.0F,
                                    1.0F, 0.0F,  1.9F, -1.0F, 0.7F, -0.2F};

TEST_P(Sampling, DrawsFromTheFilteredDistribution) {
  const SamplingParams kinds[] = {{.temperature = 1},
                                  {.temperature = 0.5F},
                                  {.temperature = 3},
                                  {.temperature = 1, .top_k = 4},
                                  {.temperature = 1, .top_k = 1},
                                  {.temperature = 1, .top_k = 12},
                                  {.temperature = 1, .top_p = 0.6F},
                                  {.temperature = 2, .top_p = 0.95F},
                                  {.temperature = 1, .min_p = 0.3F},
                                  {.temperature = 1.2F, .top_k = 8, .top_p = 0.8F},
                                  {.temperature = 0.9F, .top_k = 9, .top_p = 0.9F, .min_p = 0.25F}};
  for (const SamplingParams& params : kinds) {
    SCOPED_TRACE(testing::Message() << "temperature " << params.temperature << " top_k " << params.top_k
                                    << " top_p " << params.top_p << " min_p " << params.min_p);
    const auto tokens = draw(
        kLogits, params, kDraws, [](int) { return 9; }, [](int i) { return i; });
    expect_distributed(tokens, reference::sampling_distribution(kLogits, params));
  }
}

TEST_P(Sampling, DrawsIndependentlyAtNeighbouringPositions) {
  const std::vector<float> four(4, 0.0F);
  const auto tokens = draw(
      four, {.temperature = 1}, kDraws, [](int) { return 3; }, [](int i) { return i; });
  std::vector<int32_t> pairs;
  for (size_t i = 0; i + 1 < tokens.size(); i += 2) pairs.push_back(4 * tokens[i] + tokens[i + 1]);
  expect_distributed(pairs, std::vector<double>(16, 1.0 / 16));
}

TEST_P(Sampling, DrawsIndependentlyForNeighbouringSeedsInBothHalves) {
  const std::vector<float> four(4, 0.0F);
  for (const int shift : {0, 20, 32, 50}) {
    const auto tokens = draw(
        four, {.temperature = 1}, kDraws, [&](int i) { return static_cast<uint64_t>(i % 8192) << shift; },
        [](int i) { return i / 8192; });
    std::vector<int32_t> pairs;
    for (size_t i = 0; i + 1 < tokens.size(); i += 2) pairs.push_back(4 * tokens[i] + tokens[i + 1]);
    SCOPED_TRACE(shift);
    expect_distributed(pairs, std::vector<double>(16, 1.0 / 16));
  }
}

TEST_P(Sampling, TakesTheLowestIdOfEqualLogitsWhenGreedy) {
  EXPECT_EQ(draw_one(kLogits, {}), 2);
  EXPECT_EQ(draw_one({-1.0F, -1.0F, -1.0F}, {}), 0);
  EXPECT_EQ(draw_one({-0.0F, 0.0F}, {}), 0);
  EXPECT_EQ(draw_one(kLogits, {.temperature = 1, .top_k = 1}), 2);
  std::vector<float> wide(129280, 0.25F);
  wide[128001] = wide[129279] = 7;
  EXPECT_EQ(draw_one(wide, {}), 128001);
}

TEST_P(Sampling, NeverDrawsATokenOfMinusInfinity) {
  std::vector<float> logits(12, -std::numeric_limits<float>::infinity());
  logits[3] = 0;
  logits[9] = 0;
  std::vector<double> halves(12);
  halves[3] = halves[9] = 0.5;
  expect_distributed(draw(
                         logits, {.temperature = 1}, 2000, [](int) { return 1; }, [](int i) { return i; }),
                     halves);
  EXPECT_EQ(draw_one(logits, {}), 3);
}

TEST_P(Sampling, RefusesARowThatHoldsANanOrWhoseLargestLogitIsInfinite) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const SamplingParams& params :
       {SamplingParams{}, SamplingParams{.temperature = 1}, SamplingParams{.temperature = 1, .top_k = 2}}) {
    EXPECT_EQ(draw_one({1, std::nanf(""), 3}, params), -1);
    EXPECT_EQ(draw_one({std::nanf(""), 1, 3}, params), -1);
    EXPECT_EQ(draw_one({1, 3, std::nanf("")}, params), -1);
    EXPECT_EQ(draw_one({-inf, -inf}, params), -1);
    EXPECT_EQ(draw_one({1, inf, 3}, params), -1);
    EXPECT_EQ(draw_one({1, 3, 2}, params) >= 0, true);
  }
}

TEST_P(Sampling, StaysWithTheLikeliestAtATinyTemperatureOrTopP) {
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 1e-6F, .top_k = 1}, SamplingParams{.temperature = 1, .top_p = 1e-6F},
        SamplingParams{.temperature = 1, .top_p = 0}}) {
    for (const int32_t token : draw(
             kLogits, params, 200, [](int i) { return i; }, [](int i) { return i; })) {
      EXPECT_EQ(token, 2);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BackEnds, Sampling, testing::ValuesIn(tested_backends()),
                         [](const testing::TestParamInfo<Tested>& info) { return short_name(info.param); });

}  // namespace
}  // namespace fulgur::test
