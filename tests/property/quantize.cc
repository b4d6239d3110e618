#include "property/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace fulgur::property {
namespace {

template <typename T>
void put(std::string& data, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  data.append(bytes, sizeof value);
}

/// The magnitude code 0..most whose value, ascending, is nearest.
template <typename Decode>
uint8_t nearest(double magnitude, int most, Decode decode) {
  int low = 0;
  int high = most;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (decode(middle) <= magnitude ? low : high) = middle;
  }
  return static_cast<uint8_t>(magnitude - decode(low) <= decode(high) - magnitude ? low : high);
}

/// A binary type of `mantissa` bits with exponents from `least` on, as its bits without the sign.
uint32_t encode(double magnitude, int mantissa, int least, int bias) {
  if (magnitude == 0) return 0;
  const int exponent = std::max(std::ilogb(magnitude), least);
  const double steps = std::nearbyint(std::ldexp(magnitude, mantissa - exponent));
  // Subnormals have no leading one; one that rounds up to it carries into the exponent by itself.
  const auto field = static_cast<uint32_t>(exponent + bias - 1) << mantissa;
  return field + static_cast<uint32_t>(steps);
}

double decode(uint32_t bits, int mantissa, int least, int bias) {
  const auto exponent = static_cast<int>(bits >> mantissa);
  const auto fraction = static_cast<double>(bits & ((1U << mantissa) - 1));
  if (exponent == 0) return std::ldexp(fraction, least - mantissa);
  return std::ldexp(fraction + std::ldexp(1, mantissa), exponent - bias - mantissa);
}

/// A 16-bit type.
double put_half(std::string& data, double value, int mantissa, int least, int bias) {
  const uint32_t magnitude = encode(std::abs(value), mantissa, least, bias);
  put(data, static_cast<uint16_t>(magnitude | (std::signbit(value) ? 0x8000U : 0U)));
  return std::copysign(decode(magnitude, mantissa, least, bias), value);
}

}  // namespace

double decode_e4m3(uint8_t code) {
  const double magnitude = decode(code & 0x7fU, 3, -6, 7);
  return (code & 0x80U) != 0 ? -magnitude : magnitude;
}

double decode_e2m1(int code) {
  constexpr double kMagnitudes[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8) != 0 ? -kMagnitudes[code & 7] : kMagnitudes[code & 7];
}

uint8_t encode_e4m3(double value) {
  constexpr int kLargest = 0x7e;
  const uint8_t code =
      nearest(std::abs(value), kLargest, [](int c) { return decode_e4m3(static_cast<uint8_t>(c)); });
  return static_cast<uint8_t>(code | (std::signbit(value) ? 0x80 : 0));
}

uint8_t encode_e2m1(double value) {
  return static_cast<uint8_t>(nearest(std::abs(value), 7, decode_e2m1) | (std::signbit(value) ? 8 : 0));
}

uint8_t encode_e4m3_above(double value) {
  uint8_t code = encode_e4m3(value);
  while (decode_e4m3(code) < value && code < 0x7e) ++code;
  return code;
}

uint8_t encode_e8m0_above(double value) {
  if (value == 0) return 0;
  constexpr int kBias = 127;
  return static_cast<uint8_t>(std::clamp(static_cast<int>(std::ceil(std::log2(value))) + kBias, 0, 254));
}

double put_f32(std::string& data, double value) {
  const auto rounded = static_cast<float>(value);
  put(data, rounded);
  return rounded;
}

double put_bf16(std::string& data, double value) { return put_half(data, value, 7, -126, 127); }

double put_f16(std::string& data, double value) { return put_half(data, value, 10, -14, 15); }

}  // namespace fulgur::property
