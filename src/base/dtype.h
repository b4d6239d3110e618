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

}  // namespace fulgur
