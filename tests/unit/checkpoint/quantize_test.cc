// The corners of quantization; what it gives for ordinary values is held against numpy in
// tests/e2e/test_convert.py.

#include "checkpoint/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/dtype.h"

namespace fulgur {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr BlockScales kEveryKind[] = {BlockScales::kF32, BlockScales::kF32Pow2, BlockScales::kE8m0};

TEST(LargestMagnitude, IsEmptyWhereAValueIsNotFinite) {
  EXPECT_EQ(largest_magnitude(std::vector<float>{1, -3, 2}), 3);
  EXPECT_EQ(largest_magnitude(std::vector<float>{}), 0);
  for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity})
    EXPECT_EQ(largest_magnitude(std::vector<float>{1, bad, 2}), std::nullopt);
}

TEST(Fp8BlockScale, MakesTheLargestValueTheLargestCodeOrWithPowersOfTwoAtMostThat) {
  for (int exponent = -100; exponent <= 120; ++exponent) {
    for (const float fraction : {1.0F, 1.25F, 1.75F, 1.9999999F}) {
      const float largest = std::ldexp(fraction, exponent);
      EXPECT_EQ(to_e4m3(largest / fp8_block_scale(largest, BlockScales::kF32)), 0x7e) << largest;
      const float scale = fp8_block_scale(largest, BlockScales::kE8m0);
      EXPECT_EQ(scale, std::exp2(std::round(std::log2(scale)))) << largest;
      EXPECT_LE(largest / scale, 448) << largest;
      EXPECT_GT(largest / scale, 224) << largest;
    }
  }
}

TEST(QuantizeFp8, OfZerosAndOfTheSmallestNumbersHasScalesThatAScaleMayBe) {
  for (const float largest : {0.0F, std::numeric_limits<float>::denorm_min(), 1e-40F, 1e-37F}) {
    for (const BlockScales kind : kEveryKind) {
      const std::vector<float> values = {largest, -largest, 0, -0.0F};
      std::vector<uint8_t> codes(values.size());
      float scale = 0;
      quantize_fp8(values.data(), 2, 2, kind, codes.data(), &scale);
      EXPECT_TRUE(std::isnormal(scale) && scale > 0) << largest;
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_NEAR(e4m3_to_float(codes[i]) * scale, values[i], std::max(scale * 0x1p-10F, largest * 0x1p-4F))
            << largest;
        EXPECT_EQ(std::signbit(e4m3_to_float(codes[i])), std::signbit(values[i])) << largest;
      }
    }
  }
}

TEST(QuantizeFp8, GivesEveryBlockOfARaggedRowItsScale) {
  constexpr int64_t kRows = 3;
  constexpr int64_t kCols = 128 + 5;
  std::vector<float> values(kRows * kCols, 1);
  values[128] = 448;
  std::vector<uint8_t> codes(values.size());
  std::vector<float> scales(2);
  quantize_fp8(values.data(), kRows, kCols, BlockScales::kF32, codes.data(), scales.data());
  EXPECT_EQ(scales, (std::vector<float>{1 / 448.0F, 1}));
  EXPECT_EQ(codes[0], 0x7e);
  EXPECT_EQ(codes[129], to_e4m3(1));
}

TEST(QuantizeNvfp4, OfZerosAndOfGroupsFarBelowTheLargestLosesNoScale) {
  constexpr int64_t kCols = 48;
  std::vector<float> values(kCols);  // a group of ordinary values, one of tiny ones, one of zeros
  for (size_t i = 0; i < 16; ++i) values[i] = static_cast<float>(i) - 8;
  for (size_t i = 16; i < 32; ++i) values[i] = 1e-6F;
  for (const bool zeros : {false, true}) {
    if (zeros) values.assign(kCols, 0);
    const float factor = nvfp4_factor(zeros ? 0 : 8);
    std::vector<uint8_t> codes(kCols / 2);
    std::vector<uint8_t> scales(kCols / 16);
    quantize_nvfp4(values.data(), 1, kCols, factor, codes.data(), scales.data());
    for (const uint8_t scale : scales) EXPECT_GT(e4m3_to_float(scale), 0);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto code = static_cast<uint8_t>(i % 2 == 0 ? codes[i / 2] & 0xf : codes[i / 2] >> 4);
      const float step = e4m3_to_float(scales[i / 16]) * factor;
      EXPECT_NEAR(e2m1_to_float(code) * step, values[i], step) << i;
    }
  }
  EXPECT_TRUE(std::isnormal(1 / nvfp4_factor(std::numeric_limits<float>::denorm_min())));
}

}  // namespace
}  // namespace fulgur
