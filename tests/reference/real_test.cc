// The error analysis that every tolerance of the op tests comes from.

#include "reference/real.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

namespace fulgur::reference {
namespace {

TEST(Real, CoversF32SumsInAnyOrderButIsNotLoose) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  for (const size_t length : {3, 100, 7168}) {
    double closest = HUGE_VAL;
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::vector<Real> a(length);
      std::vector<Real> b(length);
      float forward = 0;
      float backward = 0;
      for (size_t i = 0; i < length; ++i) {
        a[i] = normal(random);
        b[i] = normal(random);
      }
      for (size_t i = 0; i < length; ++i) {
        forward += static_cast<float>(a[i].value) * static_cast<float>(b[i].value);
        const size_t j = length - 1 - i;
        backward = std::fma(static_cast<float>(a[j].value), static_cast<float>(b[j].value), backward);
      }
      const Real exact = dot(a, b);
      EXPECT_LE(std::abs(forward - exact.value), exact.error);
      EXPECT_LE(std::abs(backward - exact.value), exact.error);
      closest = std::min(closest, exact.error);
      EXPECT_LT(exact.error, 0.2) << length;  // a lost term, 0.64 on average, mustn't fit in
    }
    EXPECT_GT(closest, 0);
  }
}

TEST(Real, RoundsToBf16WithoutErrorUnlessTheBoundaryIsWithinReach) {
  const double ulp = 0x1p-7;
  const Real sure = as_operand(Real(1 + 0.3 * ulp, 0.1 * ulp), DType::kBf16);
  EXPECT_EQ(sure.value, 1);
  EXPECT_EQ(sure.error, 0);
  const Real unsure = as_operand(Real(1 + 0.45 * ulp, 0.1 * ulp), DType::kBf16);
  EXPECT_EQ(unsure.value, 1);
  EXPECT_EQ(unsure.error, ulp);
  EXPECT_EQ(as_operand(Real(1 + 0.45 * ulp, 0.1 * ulp), DType::kF32).value, 1 + 0.45 * ulp);
}

TEST(Real, RoundsToBf16LikeTheEnginesConversion) {
  std::mt19937_64 random(2);
  for (int i = 0; i < 200000; ++i) {
    const auto x = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (std::isnan(x)) continue;
    ASSERT_EQ(nearest_bf16(x), static_cast<double>(to_float(to_bf16(x)))) << x;
  }
  for (const float x :
       {0x1.01p0F, 0x1.03p0F, 0x1p-133F, 0x1.8p-133F, 0x1p-134F, 0x1.fep127F, 0x1.ffp127F, -0.0F}) {
    EXPECT_EQ(nearest_bf16(x), static_cast<double>(to_float(to_bf16(x)))) << x;
  }
}

TEST(Real, PassesOnTheErrorOfItsInputs) {
  const std::array<Real, 2> a = {Real(2, 0.5), Real(3)};
  const std::array<Real, 2> b = {Real(10), Real(-1)};
  const Real product = dot(a, b);
  EXPECT_EQ(product.value, 17);
  EXPECT_NEAR(product.error, 5, 1e-4);
  EXPECT_NEAR(exponential(Real(0, 0.1)).error, std::exp(0.1) - 1, 1e-6);
  EXPECT_NEAR((Real(1) / Real(2, 0.1)).error, 1 / 1.9 - 0.5, 1e-6);
  EXPECT_NEAR(square_root(Real(4, 1)).error, 2 - std::sqrt(3), 1e-6);
}

TEST(Real, KnowsThatTheReluOfASurelyNegativeNumberIsExactlyZero) {
  EXPECT_EQ(relu(Real(-1, 0.5)).error, 0);
  EXPECT_EQ(relu(Real(-1, 1.5)).error, 0.5);
  EXPECT_EQ(relu(Real(1, 1.5)).error, 1.5);
}

}  // namespace
}  // namespace fulgur::reference
