#pragma once

// Tables for decoding e4m3 and e2m1 in registers, made from the decoders of base/dtype.h.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace fulgur::cpu {

/// The upper half of a value that bf16 holds exactly; every e4m3 and e2m1 value is one.
constexpr uint16_t bf16_bits(float exact) {
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(exact) >> 16);
}

/// Every e4m3 value: for the scales of NVFP4, one of which serves 16 codes.
inline constexpr std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (size_t code = 0; code < values.size(); ++code)
    values[code] = e4m3_to_float(static_cast<uint8_t>(code));
  return values;
}();

/// The same as bf16, exact too.
inline constexpr std::array<uint16_t, 256> kE4m3Bits = [] {
  std::array<uint16_t, 256> bits{};
  for (size_t code = 0; code < bits.size(); ++code) bits[code] = bf16_bits(kE4m3Values[code]);
  return bits;
}();

/// An e4m3 code becomes bf16 by moving its bits and adding this to the exponent: (code << 4) + it, the sign
/// aside ...
inline constexpr uint16_t kE4m3Rebias = (127 - 7) << 7;
/// ... but for the subnormals and NaN. For those (code + 1) & 0x7f is below 16, 0 for NaN and 1 + m for m *
/// 2^-9, and this, at that index, is what the result has to be XORed with; 0 for the normal ones among them.
inline constexpr std::array<uint16_t, 16> kE4m3Repair = [] {
  std::array<uint16_t, 16> repair{};
  for (size_t i = 0; i < repair.size(); ++i) {
    const auto code = static_cast<uint8_t>((i + 0x7f) & 0x7f);
    const auto moved = static_cast<uint16_t>((code << 4) + kE4m3Rebias);
    repair[i] = static_cast<uint16_t>(moved ^ bf16_bits(e4m3_to_float(code)));
  }
  return repair;
}();

/// Every e2m1 value as bf16.
inline constexpr std::array<uint16_t, 16> kE2m1Bits = [] {
  std::array<uint16_t, 16> bits{};
  for (size_t code = 0; code < bits.size(); ++code)
    bits[code] = bf16_bits(e2m1_to_float(static_cast<uint8_t>(code)));
  return bits;
}();

/// The upper or lower bytes of a table of 16: what PSHUFB looks up.
constexpr std::array<uint8_t, 16> bytes_of(const std::array<uint16_t, 16>& table, int shift) {
  std::array<uint8_t, 16> bytes{};
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(table[i] >> shift);
  return bytes;
}
struct alignas(16) ByteTable {
  std::array<uint8_t, 16> bytes;
};
inline constexpr ByteTable kE4m3RepairHigh{bytes_of(kE4m3Repair, 8)};
inline constexpr ByteTable kE4m3RepairLow{bytes_of(kE4m3Repair, 0)};
inline constexpr ByteTable kE2m1High{bytes_of(kE2m1Bits, 8)};
inline constexpr ByteTable kE2m1Low{bytes_of(kE2m1Bits, 0)};

}  // namespace fulgur::cpu
