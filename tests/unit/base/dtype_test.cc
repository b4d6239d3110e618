#include "base/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace fulgur {
namespace {

constexpr uint32_t kAllBf16 = 1U << 16;

bool is_nan_bf16(uint32_t bits) { return (bits & 0x7fffU) > 0x7f80U; }

TEST(Bf16, SurvivesTheWayToF32AndBackForEveryBitPattern) {
  for (uint32_t bits = 0; bits < kAllBf16; ++bits) {
    const Bf16 value{static_cast<uint16_t>(bits)};
    const Bf16 back = to_bf16(to_float(value));
    if (is_nan_bf16(bits)) {
      ASSERT_TRUE(std::isnan(to_float(value)) && is_nan_bf16(back.bits)) << std::hex << bits;
    } else {
      ASSERT_EQ(back.bits, bits) << std::hex << bits;
    }
  }
}

// Rounding is monotonic; so it is right everywhere if it is right at, just below and just above every
// midpoint.
TEST(Bf16, RoundsToNearestEvenAtEveryMidpoint) {
  for (uint32_t bits = 0; bits < kAllBf16; ++bits) {
    if ((bits & 0x7fffU) >= 0x7f80U) continue;  // infinity and NaN have no midpoint above
    const uint32_t midpoint = (bits << 16) | 0x8000U;
    const uint32_t even = (bits & 1U) == 0 ? bits : bits + 1;  // may be infinity
    ASSERT_EQ(to_bf16(std::bit_cast<float>(midpoint)).bits, even) << std::hex << midpoint;
    ASSERT_EQ(to_bf16(std::bit_cast<float>(midpoint - 1)).bits, bits) << std::hex << midpoint - 1;
    ASSERT_EQ(to_bf16(std::bit_cast<float>(midpoint + 1)).bits, bits + 1) << std::hex << midpoint + 1;
  }
}

TEST(Bf16, KeepsEveryNanANan) {
  for (const uint32_t payload :
       {0x1U, 0x7fffU, 0x8000U, 0xffffU, 0x10000U, 0x3fffffU, 0x400000U, 0x7fffffU}) {
    for (const uint32_t sign : {0x0U, 0x80000000U}) {
      const auto nan = std::bit_cast<float>(sign | 0x7f800000U | payload);
      EXPECT_TRUE(is_nan_bf16(to_bf16(nan).bits)) << std::hex << payload;
      EXPECT_EQ(to_bf16(nan).bits >> 15, sign >> 31);
    }
  }
}

TEST(Half, IsExactForEveryBitPattern) {
  for (uint32_t bits = 0; bits < (1U << 16); ++bits) {
    const double sign = (bits & 0x8000U) != 0 ? -1 : 1;
    const auto exponent = static_cast<int>((bits >> 10) & 0x1fU);
    const double mantissa = bits & 0x3ffU;
    const float value = half_to_float(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      ASSERT_TRUE(mantissa == 0 ? std::isinf(value) : std::isnan(value)) << std::hex << bits;
    } else {
      const double expected =
          exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
      ASSERT_EQ(value, sign * expected) << std::hex << bits;
    }
    ASSERT_EQ(std::signbit(value), sign < 0) << std::hex << bits;
  }
}

// The oracles of the narrow floats are written from the OCP specifications (8-bit floating point 1.0;
// Microscaling formats 1.0): sign, exponent and mantissa taken apart in double.
TEST(E4m3, IsExactForEveryCode) {
  for (int code = 0; code < 256; ++code) {
    const double sign = code >= 128 ? -1 : 1;
    const int exponent = code / 8 % 16;
    const int mantissa = code % 8;
    const float value = e4m3_to_float(static_cast<uint8_t>(code));
    if (exponent == 15 && mantissa == 7) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(mantissa / 8.0, -6) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
      EXPECT_EQ(value, sign * magnitude) << code;
    }
    EXPECT_EQ(std::signbit(value), sign < 0) << code;
  }
  EXPECT_EQ(e4m3_to_float(0x7e), 448);
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9F);
}

TEST(E8m0, IsExactForEveryCode) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(e8m0_to_float(static_cast<uint8_t>(code)), std::ldexp(1.0, code - 127)) << code;
  }
  EXPECT_TRUE(std::isnan(e8m0_to_float(0xff)));
}

TEST(E2m1, IsExactForEveryCodeWhateverTheHighNibble) {
  for (int byte = 0; byte < 256; ++byte) {
    const double sign = byte % 16 >= 8 ? -1 : 1;
    const int exponent = byte / 2 % 4;
    const int mantissa = byte % 2;
    const double magnitude = exponent == 0 ? mantissa / 2.0 : std::ldexp(1 + mantissa / 2.0, exponent - 1);
    const float value = e2m1_to_float(static_cast<uint8_t>(byte));
    EXPECT_EQ(value, sign * magnitude) << byte;
    EXPECT_EQ(std::signbit(value), sign < 0) << byte;
  }
}

/// The code whose value lies nearest, ties to the even one, found by trying all `count` of one sign.
template <typename Decode>
int nearest_code(double magnitude, int count, Decode decode) {
  int best = 0;
  for (int code = 1; code < count; ++code) {
    const double gain = std::abs(decode(best) - magnitude) - std::abs(decode(code) - magnitude);
    if (gain > 0 || (gain == 0 && code % 2 == 0)) best = code;
  }
  return best;
}

TEST(E4m3, RoundsToTheNearestCodeTiesToEvenAndSaturates) {
  const auto decode = [](int code) { return double{e4m3_to_float(static_cast<uint8_t>(code))}; };
  for (int code = 0; code < 127; ++code) {
    const double value = decode(code);
    const double next = code < 126 ? decode(code + 1) : 480;
    for (const double between : {value, (3 * value + next) / 4, (value + next) / 2, (value + 3 * next) / 4}) {
      for (const double nudge : {0.0, 0x1p-20, -0x1p-20}) {
        const auto magnitude = static_cast<float>(between * (1 + nudge));
        const int expected = nearest_code(magnitude, 127, decode);
        EXPECT_EQ(to_e4m3(magnitude), expected) << magnitude;
        EXPECT_EQ(to_e4m3(-magnitude), expected | 0x80) << magnitude;
      }
    }
  }
  EXPECT_EQ(to_e4m3(1e30F), 0x7e);
  EXPECT_EQ(to_e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_EQ(to_e4m3(std::nanf("")) & 0x7f, 0x7f);
}

TEST(E2m1, RoundsToTheNearestCodeTiesToEvenAndSaturates) {
  const auto decode = [](int code) { return double{e2m1_to_float(static_cast<uint8_t>(code))}; };
  for (int step = 0; step <= 512; ++step) {
    const float magnitude = static_cast<float>(step) / 64;
    const int expected = nearest_code(magnitude, 8, decode);
    EXPECT_EQ(to_e2m1(magnitude), expected) << magnitude;
    EXPECT_EQ(to_e2m1(-magnitude), expected | 8) << magnitude;
  }
}

TEST(DType, IsFoundByItsOwnNameAndNoOther) {
  for (int i = 0; i <= static_cast<int>(DType::kF8E8M0); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(parse_dtype(name(dtype)), dtype) << name(dtype);
  }
  for (const std::string_view text : {"", "bf16", "BF16 ", "F8", "F8_E4M3FN", "F128"}) {
    EXPECT_EQ(parse_dtype(text), std::nullopt) << text;
  }
}

TEST(DType, HasTheWidthThatItsNameTells) {
  for (int i = 0; i <= static_cast<int>(DType::kF8E8M0); ++i) {
    const auto dtype = static_cast<DType>(i);
    const std::string text(name(dtype));
    const size_t digits = text.find_first_of("0123456789");
    const size_t bits =
        digits == std::string::npos ? 8 : std::stoul(text.substr(digits));  // BOOL takes a byte
    EXPECT_EQ(size_bytes(dtype), bits / 8) << text;
  }
}

}  // namespace
}  // namespace fulgur
