#include "checkpoint/draw.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <tuple>

#include "checkpoint/quantize.h"

// The generator is SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number
// generators", OOPSLA 2014): word w is a hash of key + w * gamma, so words need no state and no order. One
// word makes eight codes or two numbers, at a few cycles a word; base/counter_rng.h's Philox would take ten
// times that. Everything else is exact or IEEE's basic arithmetic: the bytes don't depend on the machine.

namespace fulgur {
namespace {

constexpr uint64_t kGamma = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio, odd
constexpr float kQuantileVariance = 1.0F / 6;    // of the sum of two numbers uniform in [-1/2, 1/2]
constexpr uint8_t kLeastGroupScale = 0x6f;       // 120, and the fifteen codes above it up to 448

constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

constexpr uint64_t word_at(uint64_t key, uint64_t index) { return mix(key + (index + 1) * kGamma); }

/// Of the sum of two numbers uniform in [-1/2, 1/2]: between -1 and 1, denser in the middle.
float quantile(float p) { return p < 0.5F ? std::sqrt(2 * p) - 1 : 1 - std::sqrt(2 * (1 - p)); }

/// `count` quantiles, equally likely each.
template <size_t count>
std::array<float, count> quantiles() {
  std::array<float, count> values{};
  for (size_t i = 0; i < count; ++i) {
    values[i] = quantile((static_cast<float>(i) + 0.5F) / static_cast<float>(count));
  }
  return values;
}

/// What numbers are made of: twelve random bits choose one.
constexpr int kQuantileBits = 12;
using Quantiles = std::array<float, size_t{1} << kQuantileBits>;

const Quantiles& number_quantiles() {
  static const Quantiles values = quantiles<std::tuple_size_v<Quantiles>>();
  return values;
}

/// A code for each value of a byte: quantiles scaled to e4m3's range.
const std::array<uint8_t, 256>& fp8_codes() {
  static const std::array<uint8_t, 256> codes = [] {
    const std::array<float, 256> values = quantiles<256>();
    std::array<uint8_t, 256> table{};
    std::transform(values.begin(), values.end(), table.begin(),
                   [](float value) { return to_e4m3(kMostE4m3 * value); });
    return table;
  }();
  return codes;
}

/// Fills `to` from its byte `first` on with what `make` turns word after word into, so many bytes each.
template <typename Made, typename Make>
void emit(uint64_t key, uint64_t first, std::span<std::byte> to, Make make) {
  constexpr uint64_t kWidth = sizeof(Made);
  const uint64_t end = first + to.size();
  std::byte* at = to.data();
  const auto part_of = [&](uint64_t begin, uint64_t count) {  // not a whole word
    const Made made = make(word_at(key, begin / kWidth));
    std::memcpy(at, reinterpret_cast<const std::byte*>(&made) + begin % kWidth, count);
    at += count;
  };
  uint64_t i = first;
  if (i % kWidth != 0) {
    const uint64_t count = std::min(kWidth - i % kWidth, end - i);
    part_of(i, count);
    i += count;
  }
  for (; i + kWidth <= end; i += kWidth, at += kWidth) {
    const Made made = make(word_at(key, i / kWidth));
    std::memcpy(at, &made, kWidth);
  }
  if (i < end) part_of(i, end - i);
}

/// Floats made of half a word each.
template <typename Number>
void emit_floats(uint64_t key, uint64_t first, std::span<std::byte> to, Number number) {
  emit<std::array<float, 2>>(key, first, to, [&](uint64_t word) {
    return std::array{number(static_cast<uint32_t>(word)), number(static_cast<uint32_t>(word >> 32))};
  });
}

/// Numbers in bf16, of sixteen random bits each. Many of them come from a table of what they can be.
void emit_bf16(const Draw& how, uint64_t first, std::span<std::byte> to) {
  const Quantiles& values = number_quantiles();
  const auto number = [&](size_t i) { return to_bf16(how.center + how.width * values[i]); };
  const auto emit_by = [&](const auto& by_quantile) {
    emit<std::array<Bf16, 4>>(how.key, first, to, [&](uint64_t word) {
      std::array<Bf16, 4> made;
      for (size_t i = 0; i < made.size(); ++i) {
        made[i] = by_quantile((word >> (16 * i)) & (values.size() - 1));
      }
      return made;
    });
  };
  if (to.size() < 4 * values.size()) return emit_by(number);
  std::array<Bf16, std::tuple_size_v<Quantiles>> table;
  for (size_t i = 0; i < table.size(); ++i) table[i] = number(i);
  emit_by([&](size_t i) { return table[i]; });
}

template <typename Values>
float rms(const Values& values) {
  double sum = 0;
  for (const float value : values) sum += double{value} * double{value};
  return static_cast<float>(std::sqrt(sum / static_cast<double>(std::size(values))));
}

}  // namespace

uint64_t draw_key(uint64_t seed, std::string_view tensor) {
  uint64_t key = mix(seed + kGamma);
  for (const char c : tensor) key = mix(key ^ static_cast<uint8_t>(c)) + kGamma;
  return key;
}

Draw around(float center, float deviation, uint64_t key) {
  return {Draw::Kind::kAround, center, deviation / std::sqrt(kQuantileVariance), key};
}

void draw(const Draw& how, DType dtype, int64_t first, std::span<std::byte> to) {
  const uint64_t key = how.key;
  const uint64_t begin = static_cast<uint64_t>(first) * size_bytes(dtype);
  const float center = how.center;
  const float width = how.width;
  switch (how.kind) {
    case Draw::Kind::kAround:
      if (dtype == DType::kBf16) return emit_bf16(how, begin, to);
      if (dtype != DType::kF32) throw std::logic_error("numbers are drawn in bf16 and f32 alone");
      return emit_floats(key, begin, to, [=, &values = number_quantiles()](uint32_t bits) {
        return center + width * values[bits >> (32 - kQuantileBits)];
      });
    case Draw::Kind::kFp8Codes: {
      const std::array<uint8_t, 256>& codes = fp8_codes();
      return emit<std::array<uint8_t, 8>>(key, begin, to, [&](uint64_t word) {
        std::array<uint8_t, 8> made;
        for (size_t i = 0; i < made.size(); ++i) made[i] = codes[(word >> (8 * i)) & 0xff];
        return made;
      });
    }
    case Draw::Kind::kFp4Codes:
      return emit<uint64_t>(key, begin, to, [](uint64_t word) { return word; });
    case Draw::Kind::kGroupScales:  // eight at once: four random bits each, no carry
      return emit<uint64_t>(key, begin, to, [](uint64_t word) {
        return (word & 0x0f0f0f0f0f0f0f0f) + kLeastGroupScale * uint64_t{0x0101010101010101};
      });
    case Draw::Kind::kBlockScales:
      return emit_floats(key, begin, to, [=](uint32_t bits) {
        return center * (0.5F + static_cast<float>(bits >> 8) * 0x1p-24F);
      });
    case Draw::Kind::kPowerScales:
      return emit_floats(key, begin, to,
                         [=](uint32_t bits) { return (bits >> 31) != 0 ? center : center / 2; });
    case Draw::Kind::kConstant:
      return emit_floats(key, begin, to, [=](uint32_t) { return center; });
  }
}

float fp8_codes_rms() {
  std::array<float, 256> values{};
  std::transform(fp8_codes().begin(), fp8_codes().end(), values.begin(), e4m3_to_float);
  return rms(values);
}

float fp4_codes_rms() {
  std::array<float, 16> values{};
  for (uint8_t code = 0; code < 16; ++code) values[code] = e2m1_to_float(code);
  return rms(values);
}

float group_scales_rms() {
  std::array<float, 16> values{};
  for (uint8_t i = 0; i < 16; ++i) values[i] = e4m3_to_float(static_cast<uint8_t>(kLeastGroupScale + i));
  return rms(values);
}

}  // namespace fulgur
