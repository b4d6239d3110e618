#include "checkpoint/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

namespace fulgur {
namespace {

constexpr float kLeastE4m3 = 0x1p-9F;

/// Scales below this are not used: a product with one would be a subnormal, and 1 / it no float.
constexpr float kLeastBlockScale = std::numeric_limits<float>::min();
constexpr float kLeastFactor = 0x1p-100F;  // its product with a group's scale is a normal number

float magnitude_of(const float* values, int64_t rows, int64_t cols, int64_t stride) {
  float largest = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col)
      largest = std::max(largest, std::abs(values[row * stride + col]));
  }
  return largest;
}

}  // namespace

std::optional<float> largest_magnitude(std::span<const float> values) {
  uint32_t largest = 0;  // magnitudes are ordered as their bits are, infinity and NaN above all others
  for (const float value : values) largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffU);
  constexpr auto kInfinity = std::bit_cast<uint32_t>(std::numeric_limits<float>::infinity());
  if (largest >= kInfinity) return std::nullopt;
  return std::bit_cast<float>(largest);
}

float fp8_block_scale(float largest, BlockScales scales) {
  if (largest == 0) return 1;
  const float scale = std::max(largest / kMostE4m3, kLeastBlockScale);
  if (scales == BlockScales::kF32) return scale;
  int exponent = 0;
  const float fraction = std::frexp(scale, &exponent);
  return std::ldexp(1.0F, fraction == 0.5F ? exponent - 1 : exponent);
}

void quantize_fp8(const float* values, int64_t rows, int64_t cols, BlockScales scales, uint8_t* codes,
                  float* block_scales) {
  for (int64_t left = 0; left < cols; left += kFp8Block) {
    const int64_t width = std::min(kFp8Block, cols - left);
    const float scale = fp8_block_scale(magnitude_of(values + left, rows, width, cols), scales);
    block_scales[left / kFp8Block] = scale;
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = values + row * cols + left;
      uint8_t* to = codes + row * cols + left;
      for (int64_t col = 0; col < width; ++col) to[col] = to_e4m3(from[col] / scale);
    }
  }
}

float nvfp4_factor(float largest) {
  return largest == 0 ? 1 : std::max(largest / (kMostE2m1 * kMostE4m3), kLeastFactor);
}

void quantize_nvfp4(const float* values, int64_t rows, int64_t cols, float factor, uint8_t* codes,
                    uint8_t* group_scales) {
  for (int64_t first = 0; first < rows * cols; first += kNvfp4Group) {
    const float* group = values + first;
    const float largest = magnitude_of(group, 1, kNvfp4Group, kNvfp4Group);
    const float wanted = largest == 0 ? 1 : std::max(largest / kMostE2m1 / factor, kLeastE4m3);
    const uint8_t scale = to_e4m3(wanted);
    group_scales[first / kNvfp4Group] = scale;
    const float step = e4m3_to_float(scale) * factor;
    std::array<uint8_t, kNvfp4Group> nibbles;
    for (int i = 0; i < kNvfp4Group; ++i) nibbles[static_cast<size_t>(i)] = to_e2m1(group[i] / step);
    for (size_t i = 0; i < kNvfp4Group; i += 2) {
      codes[static_cast<size_t>(first) / 2 + i / 2] = static_cast<uint8_t>(nibbles[i] | nibbles[i + 1] << 4U);
    }
  }
}

}  // namespace fulgur
