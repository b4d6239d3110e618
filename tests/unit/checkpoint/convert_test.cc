#include "checkpoint/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

namespace fulgur {
namespace {

template <typename From, typename To>
std::vector<To> converted(DType from_dtype, const std::vector<From>& from, DType to_dtype) {
  std::vector<To> to(from.size());
  convert(from_dtype, reinterpret_cast<const std::byte*>(from.data()), to_dtype,
          reinterpret_cast<std::byte*>(to.data()), static_cast<int64_t>(from.size()));
  return to;
}

/// Every pattern of 16 bits.
std::vector<uint16_t> all_patterns() {
  std::vector<uint16_t> patterns;
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) patterns.push_back(static_cast<uint16_t>(bits));
  return patterns;
}

/// IEEE half precision as its definition has it.
double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Convert, WidensEveryBf16Exactly) {
  const auto floats = converted<uint16_t, float>(DType::kBf16, all_patterns(), DType::kF32);
  for (uint32_t bits = 0; bits <= 0xffff; ++bits)
    ASSERT_EQ(std::bit_cast<uint32_t>(floats[bits]), bits << 16);
}

TEST(Convert, WidensEveryF16Exactly) {
  const auto floats = converted<uint16_t, float>(DType::kF16, all_patterns(), DType::kF32);
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const bool is_special = (bits & 0x7c00) == 0x7c00;
    if (!is_special) {
      ASSERT_EQ(static_cast<double>(floats[bits]), half_value(static_cast<uint16_t>(bits))) << bits;
      ASSERT_EQ(std::signbit(floats[bits]), (bits & 0x8000) != 0) << bits;
    } else {
      ASSERT_EQ(std::isnan(floats[bits]), (bits & 0x3ff) != 0) << bits;
      ASSERT_EQ(std::isinf(floats[bits]), (bits & 0x3ff) == 0) << bits;
    }
  }
}

TEST(Convert, RoundsF32ToTheNearestBf16TiesToEven) {
  const std::vector<float> from = {
      1.0F,
      std::bit_cast<float>(0x3f808000U),  // halfway, even below
      std::bit_cast<float>(0x3f818000U),  // halfway, even above
      std::bit_cast<float>(0x3f808001U),  // just above halfway
      std::bit_cast<float>(0x3f807fffU),  // just below
      std::bit_cast<float>(0xbf818000U),  // the same of a negative
      std::bit_cast<float>(0x7f7fffffU),  // the largest float: infinity is nearest
      std::bit_cast<float>(0x00000001U),  // the smallest
      -0.0F,
      std::numeric_limits<float>::infinity()};
  const auto to = converted<float, uint16_t>(DType::kF32, from, DType::kBf16);
  EXPECT_EQ(
      to, (std::vector<uint16_t>{0x3f80, 0x3f80, 0x3f82, 0x3f81, 0x3f80, 0xbf82, 0x7f80, 0, 0x8000, 0x7f80}));
  const auto nan = converted<float, uint16_t>(DType::kF32, {std::bit_cast<float>(0x7f800001U)}, DType::kBf16);
  EXPECT_GT(nan[0] & 0x7fff, 0x7f80);
}

TEST(Convert, RoundsF16ToBf16Once) {
  // 1 + 2^-8 + 2^-10 lies above the middle between 1 and 1 + 2^-7.
  EXPECT_EQ((converted<uint16_t, uint16_t>(DType::kF16, {0x3c05}, DType::kBf16)),
            std::vector<uint16_t>{0x3f81});
  EXPECT_EQ((converted<uint16_t, uint16_t>(DType::kF16, {0x3c04}, DType::kBf16)),
            std::vector<uint16_t>{0x3f80});
}

TEST(Convert, HasNoOtherPairs) {
  EXPECT_FALSE(can_convert(DType::kF32, DType::kF16));
  EXPECT_FALSE(can_convert(DType::kF8E4M3, DType::kF32));
  EXPECT_THROW((converted<float, uint16_t>(DType::kF32, {1}, DType::kF16)), std::logic_error);
  EXPECT_THROW((converted<uint8_t, float>(DType::kF8E4M3, {1}, DType::kF32)), std::logic_error);
}

}  // namespace
}  // namespace fulgur
