#pragma once

// Row arithmetic that several ops share: each row alone, one order of sums for a width.

#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// f(i, n): i ascending over [0, size) in steps of kLanes, n = how many lanes are real, kLanes but for the
/// last step.
template <typename F>
void for_each_vector(int64_t size, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) f(i, std::integral_constant<int, kLanes>{});
  if (i < size) f(i, static_cast<int>(size - i));
}
/// load and store for such an n: without a mask where all lanes are real.
template <typename T>
Vec load(const T* p, std::integral_constant<int, kLanes>) {
  return load(p);
}
template <typename T>
void store(T* p, Vec a, std::integral_constant<int, kLanes>) {
  store(p, a);
}

/// sum of x^2, in four interleaved runs of vectors (latency), then pairwise.
inline float sum_of_squares(const float* x, int64_t size) {
  Vec a = zero();
  Vec b = zero();
  Vec c = zero();
  Vec d = zero();
  int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    const Vec xa = load(x + i);
    const Vec xb = load(x + i + kLanes);
    const Vec xc = load(x + i + 2 * kLanes);
    const Vec xd = load(x + i + 3 * kLanes);
    a = fma(xa, xa, a);
    b = fma(xb, xb, b);
    c = fma(xc, xc, c);
    d = fma(xd, xd, d);
  }
  for (; i < size; i += kLanes) {
    const Vec xa = load(x + i, static_cast<int>(std::min<int64_t>(kLanes, size - i)));
    a = fma(xa, xa, a);
  }
  return sum((a + b) + (c + d));
}

/// out = gain * x / sqrt(mean(x^2) + eps), rounded once to Out; x may be out.
template <typename Gain, typename Out>
void rms_row(const float* x, int64_t size, const Gain* gain, float eps, Out* out) {
  const Vec scale = splat(1.0F / std::sqrt(sum_of_squares(x, size) / static_cast<float>(size) + eps));
  for_each_vector(
      size, [&](int64_t i, auto n) { store(out + i, load(gain + i, n) * (load(x + i, n) * scale), n); });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
