#pragma once

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <span>

#include "base/dtype.h"
#include "reference/tolerance.h"

namespace fulgur::reference {

/// A number of the oracle: its value in double, and how far from it a kernel may honestly be that computes
/// the same formula in f32. The operators are a running error analysis, each charging one rounding; with them
/// a twin reads like the spec and yields its own tolerance. An exact input has error 0.
struct Real {
  double value = 0;
  double error = 0;

  Real() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): a constant of a formula is an exact Real
  Real(double value, double error = 0) : value(value), error(error) {}

  [[nodiscard]] double lower() const { return value - error; }
  [[nodiscard]] double upper() const { return value + error; }
};

/// `exact` after `units` roundings to f32.
inline Real rounded(Real exact, double units = 1) {
  return {exact.value, exact.error + units * kF32Unit * (std::abs(exact.value) + exact.error)};
}

inline Real operator-(Real a) { return {-a.value, a.error}; }
inline Real operator+(Real a, Real b) { return rounded({a.value + b.value, a.error + b.error}); }
inline Real operator-(Real a, Real b) { return a + -b; }
inline Real operator*(Real a, Real b) {
  return rounded({a.value * b.value, std::abs(a.value) * b.error + std::abs(b.value) * a.error +
                                         a.error * b.error + kSmallestNormal});
}
inline Real operator/(Real a, Real b) {
  const double quotient = a.value / b.value;
  const double margin = std::abs(b.value) - b.error;
  if (!(margin > 0)) return {quotient, HUGE_VAL};
  return rounded({quotient, (a.error + std::abs(quotient) * b.error) / margin + kSmallestNormal});
}

inline Real square_root(Real a) {
  const double root = std::sqrt(a.value);
  const double spread = std::max(std::sqrt(a.upper()) - root, root - std::sqrt(std::max(a.lower(), 0.0)));
  return rounded({root, spread}, kElementaryUnits);
}
inline Real exponential(Real a) {
  const double power = std::exp(a.value);
  return rounded({power, power * std::expm1(a.error) + kSmallestNormal}, kElementaryUnits);
}
/// max(0, a): as far off as a at most, and not at all where a is negative for certain.
inline Real relu(Real a) {
  const double value = std::max(a.value, 0.0);
  return {value, std::max(std::max(a.upper(), 0.0) - value, value - std::max(a.lower(), 0.0))};
}
inline Real sigmoid(Real z) { return Real(1) / (Real(1) + exponential(-z)); }
inline Real silu(Real z) { return z * sigmoid(z); }

/// sum a_i b_i, accumulated in f32 in any order.
inline Real dot(std::span<const Real> a, std::span<const Real> b) {
  assert(a.size() == b.size());
  double sum = 0;
  double magnitude = 0;
  double inherited = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double product = a[i].value * b[i].value;
    const double spread =
        std::abs(a[i].value) * b[i].error + std::abs(b[i].value) * a[i].error + a[i].error * b[i].error;
    sum += product;
    magnitude += std::abs(product) + spread;
    inherited += spread;
  }
  return {sum, inherited + tolerance(static_cast<int64_t>(a.size()), magnitude)};
}

/// sum a_i, accumulated in f32 in any order.
inline Real sum(std::span<const Real> a) {
  double total = 0;
  double magnitude = 0;
  double inherited = 0;
  for (const Real& x : a) {
    total += x.value;
    magnitude += std::abs(x.value) + x.error;
    inherited += x.error;
  }
  return {total, inherited + tolerance(static_cast<int64_t>(a.size()), magnitude)};
}

/// What an op makes of its result before a product reads it, or when it stores it: rounded once to bf16, or
/// left in f32. Rounding is monotonic, so a kernel's result lies between the rounded ends: mostly these are
/// one number and the error is 0; where the interval straddles a boundary, one ulp is passed on.
inline Real as_operand(Real x, DType dtype) {
  if (dtype != DType::kBf16) return x;
  const double value = nearest_bf16(x.value);
  if (!std::isfinite(x.error)) return {value, x.error};
  return {value, std::max(nearest_bf16(x.upper()) - value, value - nearest_bf16(x.lower()))};
}

}  // namespace fulgur::reference
