#include "reference/rope.h"

#include <gtest/gtest.h>

namespace fulgur::reference {
namespace {

const RopeConfig kDeepSeek{
    .theta = 10000, .width = 64, .yarn = Yarn{.factor = 40, .mscale = 1.0, .mscale_all_dim = 1.0}};

TEST(YarnTable, HasTheSoftmaxScaleThatTheSpecStates) {
  EXPECT_NEAR(yarn_magnitude(*kDeepSeek.yarn, 1), 1.3688879454, 1e-10);
  EXPECT_NEAR(softmax_scale(kDeepSeek, 128), 0.1352337788, 1e-10);
  EXPECT_DOUBLE_EQ(softmax_scale({.theta = 1e6, .width = 64}, 192), 0.0625);
  EXPECT_EQ(attention_factor(kDeepSeek), 1);
}

TEST(YarnTable, RampsFromPair10To23OfDeepSeeks) {
  const auto with_yarn = inverse_frequencies(kDeepSeek);
  const auto without = inverse_frequencies({.theta = 10000, .width = 64});
  for (size_t j = 0; j < 32; ++j) {
    const double ratio = with_yarn[j] / without[j];
    if (j <= 10) {
      EXPECT_DOUBLE_EQ(ratio, 1);
    } else if (j < 23) {
      EXPECT_TRUE(ratio > 1.0 / 40 && ratio < 1) << j;
    } else {
      EXPECT_DOUBLE_EQ(ratio, 1.0 / 40);
    }
  }
}

TEST(YarnTable, TakesTheAttentionFactorFromTheMscalesUnlessItIsGiven) {
  RopeConfig rope = kDeepSeek;
  rope.yarn->mscale_all_dim = 0.0;
  EXPECT_DOUBLE_EQ(attention_factor(rope), yarn_magnitude(*rope.yarn, 1));
  EXPECT_NEAR(softmax_scale(rope, 128), 1 / std::sqrt(192), 1e-15);
  rope.yarn->mscale_all_dim = 0.5;
  EXPECT_DOUBLE_EQ(attention_factor(rope), (0.1 * std::log(40) + 1) / (0.05 * std::log(40) + 1));
  rope.yarn->attention_factor = 1.25;
  EXPECT_EQ(attention_factor(rope), 1.25);
}

TEST(Rotation, PairsNeighboursWhenInterleavedAndHalvesOtherwise) {
  const std::vector<Real> cos = {0.0, 1.0};
  const std::vector<Real> sin = {1.0,
                                 0.0};  // the first pair is turned by a right angle, the second not at all
  const auto rotated = [&](bool interleaved) {
    std::vector<Real> x = {1.0, 2.0, 3.0, 4.0};
    rotate(x, cos, sin, interleaved);
    std::vector<double> values;
    for (const Real& r : x) values.push_back(r.value);
    return values;
  };
  EXPECT_EQ(rotated(true), (std::vector<double>{-2, 1, 3, 4}));
  EXPECT_EQ(rotated(false), (std::vector<double>{-3, 2, 1, 4}));
}

TEST(Rotation, KeepsDotProductsOfEqualDistances) {
  const RopeAngles angles = rope_angles({.theta = 10000, .width = 8}, 50);
  const auto product = [&](int64_t t, int64_t s) {
    std::vector<Real> q = {1, 2, 3, 4, 5, 6, 7, 8};
    std::vector<Real> k = {2, -1, 4, 1, -3, 2, 5, 1};
    rotate(q, angles.cos.row(t), angles.sin.row(t), true);
    rotate(k, angles.cos.row(s), angles.sin.row(s), true);
    return dot(q, k).value;
  };
  EXPECT_NEAR(product(7, 3), product(45, 41), 1e-11);
  EXPECT_GT(std::abs(product(7, 3) - product(7, 4)), 1e-2);
}

}  // namespace
}  // namespace fulgur::reference
