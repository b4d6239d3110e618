#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/counter_rng.h"
#include "kernels_support.h"
#include "ops/sample.h"

namespace fulgur {
namespace {

using test::Machine;
using test::runnable_isas;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t sample_one(Isa isa, const std::vector<float>& logits, const SamplingParams& params,
                   int32_t position) {
  Machine machine(isa, 1);
  int32_t token = -7;
  run(machine.context,
      Sample{{logits.data(), 1, static_cast<int64_t>(logits.size())}, &params, &position, &token});
  return token;
}

/// How often each token comes over positions 0 .. draws - 1.
std::vector<int> histogram(Isa isa, const std::vector<float>& logits, const SamplingParams& params,
                           int draws) {
  Machine machine(isa, 1);
  std::vector<int> counts(logits.size());
  for (int32_t position = 0; position < draws; ++position) {
    int32_t token = -7;
    run(machine.context,
        Sample{{logits.data(), 1, static_cast<int64_t>(logits.size())}, &params, &position, &token});
    ++counts.at(static_cast<size_t>(token));
  }
  return counts;
}

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(CounterRng, IsPhilox4x32WithTenRounds) {
  // Known answers of the authors' Random123 library.
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Sample, GreedyTakesTheLowestOfTheLargest) {
  for (const Isa isa : runnable_isas()) {
    std::vector<float> logits(192, -1);
    logits[77] = logits[78] = logits[150] = 3;
    EXPECT_EQ(sample_one(isa, logits, {}, 5), 77);
    EXPECT_EQ(sample_one(isa, {-kInfinity, -2}, {}, 5), 1);
    for (size_t at = 0; at < 53; ++at) {  // each lane, and what no vector is full of
      std::vector<float> row(53, -1);
      row[at] = row.back() = 3;
      EXPECT_EQ(sample_one(isa, row, {}, 5), static_cast<int32_t>(at));
    }
    std::vector<float> zeros(40, -1);
    zeros[9] = -0.0F;  // is as large as 0
    zeros[30] = 0;
    EXPECT_EQ(sample_one(isa, zeros, {}, 5), 9);
  }
}

TEST(Sample, GivesNoTokenForARowWithANanOrWithoutAFiniteLogit) {
  for (const Isa isa : runnable_isas()) {
    for (const float temperature : {0.0F, 1.0F}) {
      const SamplingParams params{.temperature = temperature};
      std::vector<float> logits(100, 1);
      logits[99] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_EQ(sample_one(isa, logits, params, 0), -1);
      logits[99] = 0;
      logits[3] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_EQ(sample_one(isa, logits, params, 0), -1);
      EXPECT_EQ(sample_one(isa, std::vector<float>(100, -kInfinity), params, 0), -1);
    }
  }
}

TEST(Sample, DrawsEachTokenAsOftenAsItIsLikely) {
  const std::vector<double> p = {0.5, 0.25, 0.125, 0.0625, 0.0625};
  constexpr int kDraws = 20000;
  for (const Isa isa : runnable_isas()) {
    const std::vector<int> counts = histogram(isa, logits_of(p), {.temperature = 1, .seed = 42}, kDraws);
    for (size_t i = 0; i < p.size(); ++i) {
      // Five standard deviations of a binomial count.
      EXPECT_NEAR(counts[i], p[i] * kDraws, 5 * std::sqrt(kDraws * p[i] * (1 - p[i]))) << i;
    }
  }
}

TEST(Sample, DividesTheLogitsByTheTemperature) {
  const std::vector<double> p = {0.8, 0.2};  // at temperature 2: 2/3 and 1/3
  constexpr int kDraws = 20000;
  for (const Isa isa : runnable_isas()) {
    const std::vector<int> counts = histogram(isa, logits_of(p), {.temperature = 2, .seed = 1}, kDraws);
    EXPECT_NEAR(counts[0], kDraws * 2.0 / 3, 5 * std::sqrt(kDraws * 2.0 / 9));
  }
}

TEST(Sample, KeepsTheTokensThatTopKTopPAndMinPAllow) {
  const std::vector<float> logits = logits_of({0.1, 0.4, 0.05, 0.3, 0.1, 0.05});
  const auto kept = [&](Isa isa, const SamplingParams& params) {
    std::vector<int> ids;
    const std::vector<int> counts = histogram(isa, logits, params, 3000);
    for (size_t i = 0; i < counts.size(); ++i) {
      if (counts[i] > 0) ids.push_back(static_cast<int>(i));
    }
    return ids;
  };
  using Ids = std::vector<int>;
  for (const Isa isa : runnable_isas()) {
    EXPECT_EQ(kept(isa, {.temperature = 1}), (Ids{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(kept(isa, {.temperature = 1, .top_k = 1}), (Ids{1}));
    EXPECT_EQ(kept(isa, {.temperature = 1, .top_k = 3}), (Ids{0, 1, 3})) << "of the equal 0 and 4 the lower";
    EXPECT_EQ(kept(isa, {.temperature = 1, .top_p = 0.65F}), (Ids{1, 3}));
    EXPECT_EQ(kept(isa, {.temperature = 1, .top_p = 0.75F}), (Ids{0, 1, 3}));
    EXPECT_EQ(kept(isa, {.temperature = 1, .top_p = 0.0F}), (Ids{1}));
    EXPECT_EQ(kept(isa, {.temperature = 1, .min_p = 0.2F}), (Ids{0, 1, 3, 4}));
    EXPECT_EQ(kept(isa, {.temperature = 1, .top_k = 4, .top_p = 0.75F, .min_p = 0.5F}), (Ids{1, 3}));
  }
}

TEST(Sample, FindsTheMassOfAFlatDistributionToo) {
  const std::vector<float> logits(5000, 0.5F);
  for (const Isa isa : runnable_isas()) {
    for (int32_t position = 0; position < 200; ++position) {
      const int32_t token = sample_one(isa, logits, {.temperature = 1, .top_p = 0.5F, .seed = 3}, position);
      EXPECT_GE(token, 0);
      EXPECT_LE(token, 2500);
    }
  }
}

TEST(Sample, DependsOnSeedAndPositionOnly) {
  const SamplingParams params[] = {
      {.temperature = 1, .seed = 5}, {.temperature = 0}, {.temperature = 1, .seed = 6}};
  std::vector<float> logits(3 * 1280);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i % 1280));
  const int32_t positions[] = {10, 11, 12};
  for (const Isa isa : runnable_isas()) {
    for (const int threads : {1, 2, 3}) {
      Machine machine(isa, threads);
      int32_t tokens[3];
      run(machine.context, Sample{{logits.data(), 3, 1280}, params, positions, tokens});
      for (int i = 0; i < 3; ++i) {
        const std::vector<float> row(logits.begin() + i * 1280, logits.begin() + (i + 1) * 1280);
        EXPECT_EQ(tokens[i], sample_one(isa, row, params[i], positions[i]));
      }
    }
  }
}

}  // namespace
}  // namespace fulgur
