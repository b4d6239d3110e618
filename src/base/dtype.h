#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace fulgur {

/// Element types as safetensors names them (docs/spec/checkpoints.md, section 1).
enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF16,
  kBf16,
  kF32,
  kF64,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
};

/// "BF16", "F8_E4M3", ...
std::string_view name(DType dtype);
/// The inverse of name(); empty for a string that is none of them.
std::optional<DType> parse_dtype(std::string_view text);
/// Width of one element.
size_t size_bytes(DType dtype);

/// bfloat16: the upper half of a float.
struct Bf16 {
  uint16_t bits = 0;
};

constexpr float to_float(Bf16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

/// Round to nearest, ties to even; a NaN stays a NaN (quiet).
constexpr Bf16 to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  return {static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16)};
}

/// IEEE half precision, exact.
float half_to_float(uint16_t bits);

/// The largest magnitudes that e4m3 and e2m1 hold.
inline constexpr float kMostE4m3 = 448;
inline constexpr float kMostE2m1 = 6;

/// FP8 with 4 exponent and 3 mantissa bits as OCP's "e4m3" (e4m3fn) has it: bias 7, no infinity, NaN where
/// all but the sign are ones, subnormals in steps of 2^-9. Exact.
constexpr float e4m3_to_float(uint8_t code) {
  constexpr int kMantissaBits = 3;
  constexpr uint32_t kBiasDifference = 127 - 7;
  const uint32_t sign = static_cast<uint32_t>(code & 0x80U) << 24;
  const uint32_t magnitude = code & 0x7fU;
  if (magnitude == 0x7fU) return std::bit_cast<float>(sign | 0x7fc00000U);
  if (magnitude < 1U << kMantissaBits) {
    const float subnormal = static_cast<float>(magnitude) * 0x1p-9F;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(subnormal) | sign);
  }
  return std::bit_cast<float>(sign | ((magnitude << (23 - kMantissaBits)) + (kBiasDifference << 23)));
}

/// Round to nearest, ties to even; beyond 448 is 448, a NaN stays a NaN.
constexpr uint8_t to_e4m3(float value) {
  constexpr uint32_t kDroppedBits = 23 - 3;
  constexpr uint32_t kBiasDifference = 127 - 7;
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<uint8_t>(sign | 0x7fU);
  constexpr auto kMost = std::bit_cast<uint32_t>(kMostE4m3);
  const uint32_t clamped = magnitude < kMost ? magnitude : kMost;
  // Floats near 2^14 lie 2^-9 apart, as the subnormals do: the sum rounds as they would.
  const auto subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(clamped) + 0x1p14F) & 0xfU;
  const uint32_t normal =
      ((clamped + 0x7ffffU + ((clamped >> kDroppedBits) & 1U)) >> kDroppedBits) - (kBiasDifference << 3);
  constexpr auto kLeastNormal = std::bit_cast<uint32_t>(0x1p-6F);
  return static_cast<uint8_t>(sign | (clamped < kLeastNormal ? subnormal : normal));
}

/// A scale 2^(code - 127); NaN for 0xff. Exact.
constexpr float e8m0_to_float(uint8_t code) {
  if (code == 0xffU) return std::bit_cast<float>(0x7fc00000U);
  if (code == 0) return 0x1p-127F;
  return std::bit_cast<float>(static_cast<uint32_t>(code) << 23);
}

/// FP4, the low four bits of `code`: a sign before 0, 0.5, 1, 1.5, 2, 3, 4 or 6. Exact.
constexpr float e2m1_to_float(uint8_t code) {
  constexpr float kValues[] = {0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                               -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};
  return kValues[code & 0xfU];
}

/// Round to nearest, ties to even; beyond 6 is 6. A NaN has no code.
constexpr uint8_t to_e2m1(float value) {
  const float magnitude = value < 0 ? -value : value;
  // Half way between neighbours; a tie goes to the even code.
  const int code = (magnitude > 0.25F) + (magnitude >= 0.75F) + (magnitude > 1.25F) + (magnitude >= 1.75F) +
                   (magnitude > 2.5F) + (magnitude >= 3.5F) + (magnitude > 5.0F);
  return static_cast<uint8_t>((std::bit_cast<uint32_t>(value) >> 31 << 3) | static_cast<uint32_t>(code));
}

}  // namespace fulgur
