#pragma once

// Groups of values as FP8 codes with a scale of their own (docs/spec/model.md, sections 4 and 12), and the
// Hadamard rotation that spreads what would stand out in them.

#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// max |x|, but for NaN.
inline float largest_magnitude(const float* x, int64_t size) {
  Vec largest = zero();
  for_each_vector(size, [&](int64_t i, auto n) {
    const Vec v = load(x + i, n);
    largest = max(max(v, zero() - v), largest);
  });
  return max_lane(largest);
}

/// The least power of two that is not below x, a normal number.
inline float power_of_two_from(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fffffU) & 0x7f800000U);
}

/// codes = e4m3(x / scale), nearest, ties to even; a NaN stays one.
inline void encode_e4m3(const float* x, int64_t size, float scale, uint8_t* codes) {
  for (int64_t i = 0; i < size; ++i) codes[i] = to_e4m3(x[i] / scale);
}

/// x times the Walsh-Hadamard matrix in natural order over sqrt(size); size is a power of two.
inline void hadamard(float* x, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2) {
    for (int64_t begin = 0; begin < size; begin += 2 * half) {
      for (int64_t i = begin; i < begin + half; ++i) {
        const float a = x[i];
        const float b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const Vec scale = splat(1.0F / std::sqrt(static_cast<float>(size)));
  for_each_vector(size, [&](int64_t i, auto n) { store(x + i, load(x + i, n) * scale, n); });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
