#include "checkpoint/draw.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace fulgur {
namespace {

struct Case {
  std::string name;
  Draw how;
  DType dtype;
};

std::vector<Case> cases() {
  constexpr uint64_t kKey = 42;
  return {{"bf16", around(1, 0.1F, kKey), DType::kBf16},
          {"f32", around(0, 2, kKey), DType::kF32},
          {"fp8", {.kind = Draw::Kind::kFp8Codes, .key = kKey}, DType::kF8E4M3},
          {"fp4", {.kind = Draw::Kind::kFp4Codes, .key = kKey}, DType::kU8},
          {"blocks", {.kind = Draw::Kind::kBlockScales, .center = 0.5F, .key = kKey}, DType::kF32},
          {"powers", {.kind = Draw::Kind::kPowerScales, .center = 0.25F, .key = kKey}, DType::kF32},
          {"groups", {.kind = Draw::Kind::kGroupScales, .key = kKey}, DType::kF8E4M3},
          {"constant", {.kind = Draw::Kind::kConstant, .center = 3, .key = kKey}, DType::kF32}};
}

std::vector<std::byte> drawn(const Draw& how, DType dtype, int64_t first, int64_t count) {
  std::vector<std::byte> bytes(static_cast<size_t>(count) * size_bytes(dtype));
  draw(how, dtype, first, bytes);
  return bytes;
}

std::vector<double> values(const Draw& how, DType dtype, int64_t count) {
  const std::vector<std::byte> bytes = drawn(how, dtype, 0, count);
  std::vector<double> result;
  for (size_t i = 0; i < bytes.size(); i += size_bytes(dtype)) {
    const auto code = static_cast<uint8_t>(bytes[i]);
    float value = 0;
    Bf16 half;
    switch (dtype) {
      case DType::kF32:
        std::memcpy(&value, &bytes[i], sizeof value);
        break;
      case DType::kBf16:
        std::memcpy(&half, &bytes[i], sizeof half);
        value = to_float(half);
        break;
      case DType::kF8E4M3:
        value = e4m3_to_float(code);
        break;
      default:
        result.push_back(static_cast<double>(e2m1_to_float(code >> 4)));
        value = e2m1_to_float(code);
    }
    result.push_back(static_cast<double>(value));
  }
  return result;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

double root_mean_square(std::vector<double> values) {
  for (double& value : values) value *= value;
  return std::sqrt(mean(values));
}

constexpr int64_t kMany = 1 << 18;
constexpr double kFewPerMille = 0.01;  // five deviations of a mean of 2^18 values are 0.01 of their size

TEST(Draw, GivesTheSameBytesInWhateverPartsATensorIsDrawn) {
  constexpr int64_t kCount = 20000;  // more than the table of bf16 numbers pays for
  for (const Case& c : cases()) {
    const std::vector<std::byte> whole = drawn(c.how, c.dtype, 0, kCount);
    for (const auto& [first, count] :
         {std::pair<int64_t, int64_t>{0, 1}, {1, 1}, {3, 2}, {5, 30}, {7, 9000}, {kCount - 3, 3}, {64, 64}}) {
      const std::vector<std::byte> part = drawn(c.how, c.dtype, first, count);
      const std::byte* expected = whole.data() + static_cast<size_t>(first) * size_bytes(c.dtype);
      EXPECT_EQ(std::memcmp(part.data(), expected, part.size()), 0) << c.name << " from " << first;
    }
  }
}

TEST(Draw, NeverGivesANanOrAnInfinity) {
  for (const Case& c : cases()) {
    for (const double value : values(c.how, c.dtype, kMany)) ASSERT_TRUE(std::isfinite(value)) << c.name;
  }
}

TEST(Draw, HasTheMeanAndTheDeviationThatWereAskedFor) {
  for (const DType dtype : {DType::kBf16, DType::kF32}) {
    std::vector<double> numbers = values(around(1, 0.25F, 7), dtype, kMany);
    EXPECT_NEAR(mean(numbers), 1, kFewPerMille * 0.25);
    for (double& number : numbers) number -= 1;
    EXPECT_NEAR(root_mean_square(numbers), 0.25, kFewPerMille * 0.25);
  }
}

TEST(Draw, HasCodesAndScalesOfTheSizesItNames) {
  const auto size_of = [](Draw::Kind kind, DType dtype) {
    return root_mean_square(values({.kind = kind, .key = 7}, dtype, kMany));
  };
  EXPECT_NEAR(size_of(Draw::Kind::kFp8Codes, DType::kF8E4M3), fp8_codes_rms(),
              kFewPerMille * fp8_codes_rms());
  EXPECT_NEAR(size_of(Draw::Kind::kFp4Codes, DType::kU8), fp4_codes_rms(), kFewPerMille * fp4_codes_rms());
  EXPECT_NEAR(size_of(Draw::Kind::kGroupScales, DType::kF8E4M3), group_scales_rms(),
              kFewPerMille * group_scales_rms());
}

TEST(Draw, GivesScalesThatDifferAndAreAboveZero) {
  for (const Draw::Kind kind : {Draw::Kind::kBlockScales, Draw::Kind::kPowerScales}) {
    const std::vector<double> scales = values({.kind = kind, .center = 0.25F, .key = 7}, DType::kF32, 1000);
    for (const double scale : scales) {
      ASSERT_GE(scale, 0.125);
      ASSERT_LE(scale, 0.375);
      ASSERT_TRUE(kind == Draw::Kind::kBlockScales || scale == 0.125 || scale == 0.25);
    }
    EXPECT_NE(scales, std::vector<double>(scales.size(), scales.front()));
  }
}

TEST(Draw, GivesOtherBytesForAnotherSeedAndAnotherTensor) {
  EXPECT_NE(draw_key(0, "a.weight"), draw_key(1, "a.weight"));
  EXPECT_NE(draw_key(0, "a.weight"), draw_key(0, "b.weight"));
  const auto bytes = [](uint64_t key) { return drawn(around(0, 1, key), DType::kBf16, 0, 1000); };
  EXPECT_NE(bytes(draw_key(0, "a.weight")), bytes(draw_key(1, "a.weight")));
}

TEST(Draw, GivesTheBytesThatItAlwaysGave) {
  std::string all;
  for (const Case& c : cases()) {
    for (const std::byte byte : drawn(c.how, c.dtype, 1, 12)) all += static_cast<char>(byte);
  }
  uint64_t hash = 0;
  for (const char c : all) hash = hash * 1099511628211U + static_cast<uint8_t>(c);
  EXPECT_EQ(hash, 13703147660358945305U);
  EXPECT_EQ(draw_key(0, "model.norm.weight"), 15359672712151995337U);
}

}  // namespace
}  // namespace fulgur
