#pragma once

// exp and what stands on it, the same code over every Vec.

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// e^x to within 2 ulp. 0 below -86.98 (results under 2^-125.5), infinity above 88.73, NaN for NaN.
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7 (remainder 0.35^8 / 8! =
/// 5e-9).
inline Vec exp(Vec x) {
  constexpr float kLowest = -87.5F;  // n = -126: the scale below is 0
  constexpr float kHighest = 89.0F;  // n = 128: overflows to infinity
  constexpr float kLog2e = 1.44269504F;
  constexpr float kLn2High = 0.693359375F;  // 9 bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4F;
  x = min(splat(kHighest), max(splat(kLowest), x));  // in this order a NaN stays
  const Vec n = round(x * splat(kLog2e));
  const Vec r = fma(n, splat(-kLn2Low), fma(n, splat(-kLn2High), x));
  Vec p = splat(1.0F / 5040);
  p = fma(p, r, splat(1.0F / 720));
  p = fma(p, r, splat(1.0F / 120));
  p = fma(p, r, splat(1.0F / 24));
  p = fma(p, r, splat(1.0F / 6));
  p = fma(p, r, splat(0.5F));
  p = fma(p, r * r, r) + splat(1.0F);
  return (p + p) * pow2(n - splat(1.0F));  // n - 1 is in the range of pow2 where n = 128 would not be
}

/// 1 / (1 + e^-x)
inline Vec sigmoid(Vec x) { return splat(1.0F) / (splat(1.0F) + exp(zero() - x)); }
/// x / (1 + e^-x)
inline Vec silu(Vec x) { return x / (splat(1.0F) + exp(zero() - x)); }

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
