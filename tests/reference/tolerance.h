#pragma once

// How far an f32 kernel may be from the oracle: derived here and nowhere else.

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fulgur::reference {

/// Unit roundoffs: the largest relative error of one rounding to nearest.
constexpr double kF32Unit = 0x1p-24;
constexpr double kBf16Unit = 0x1p-8;

/// Below the normal numbers some instructions flush to zero (VDPBF16PS does).
constexpr double kSmallestNormal = 0x1p-126;

/// A kernel's own exp and reciprocal square root: relative error in units of kF32Unit. Ours, being
/// polynomials of f32, promise 4 (2 ulp); whoever writes a worse one has to change the kernel.
constexpr double kElementaryUnits = 4;

/// The factor of n roundings of f32: |computed - exact| <= growth(n) * sum |terms|, for every order of
/// summation, with or without FMA. The smaller of
///   n u / (1 - n u)                        which always holds (Higham, Accuracy and Stability, 3.1), and
///   exp(lambda sqrt(n) u + n u^2/(1-u)) - 1    which holds for roundings without a common direction but with
///   probability
///                                        2 exp(-lambda^2 / 2) (Higham and Mary 2019, theorem 2.4); lambda =
///                                        6: 3e-8.
inline double growth(int64_t roundings) {
  constexpr double kLambda = 6;
  const auto n = static_cast<double>(roundings);
  const double always = n * kF32Unit / (1 - n * kF32Unit);
  const double almost_always =
      std::expm1(kLambda * std::sqrt(n) * kF32Unit + n * kF32Unit * kF32Unit / (1 - kF32Unit));
  return std::min(always, almost_always);
}

/// The error of a sum of `terms` products accumulated in f32, where `magnitude` = sum |a||b|. (Each term
/// passes at most `terms` roundings: its product's and the additions.)
inline double tolerance(int64_t terms, double magnitude) {
  return growth(terms) * magnitude + static_cast<double>(terms) * kSmallestNormal;
}

/// The bf16 number nearest to x, ties to even, from double without a stop at f32.
inline double nearest_bf16(double x) {
  if (!std::isfinite(x) || x == 0) return x;
  constexpr int kMantissaBits = 7;
  constexpr int kSmallestExponent = -126;
  const int exponent = std::max(std::ilogb(x), kSmallestExponent);
  const double ulp = std::ldexp(1.0, exponent - kMantissaBits);
  const double rounded = std::nearbyint(x / ulp) * ulp;
  return std::abs(rounded) >= 0x1p128 ? std::copysign(HUGE_VAL, x) : rounded;
}

}  // namespace fulgur::reference
