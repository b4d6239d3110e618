#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "reference/real.h"
#include "reference/table.h"

namespace fulgur::reference {

/// The e4m3 number nearest to x, ties to even; 448 beyond it.
inline double nearest_e4m3(double x) {
  constexpr double kMost = 448;
  constexpr int kMantissaBits = 3;
  constexpr int kSmallestExponent = -6;
  if (x == 0 || std::isnan(x)) return x;
  if (std::abs(x) >= kMost) return std::copysign(kMost, x);
  const int exponent = std::max(std::ilogb(x), kSmallestExponent);
  const double ulp = std::ldexp(1.0, exponent - kMantissaBits);
  return std::clamp(std::nearbyint(x / ulp) * ulp, -kMost, kMost);
}

/// The scales that a kernel may give a group (docs/spec/model.md, sections 4 and 12): one, or both sides of a
/// power of two that its amax, at least `least`, may fall on either side of.
inline std::vector<Real> group_scales(Row group, bool power_of_two, double least_amax = 1e-4) {
  Real amax(least_amax);
  double lower = amax.value;
  double upper = amax.value;
  for (const Real& x : group) {
    lower = std::max(lower, std::abs(x.value) - x.error);
    upper = std::max(upper, std::abs(x.value) + x.error);
    amax.value = std::max(amax.value, std::abs(x.value));
  }
  amax.error = std::max(upper - amax.value, amax.value - lower);
  const Real sigma = rounded(amax / Real(448));  // and 1e-4 is a rounded number itself
  if (!power_of_two) return {sigma};
  const double least = std::exp2(std::ceil(std::log2(sigma.lower())));
  const double most = std::exp2(std::ceil(std::log2(sigma.upper())));
  if (least == most) return {Real(least)};
  return {Real(least), Real(most)};
}

/// Whether a kernel may round x / scale to the e4m3 number `code`.
inline bool may_be_code(Real x, Real scale, double code) {
  const Real quotient = x / scale;
  return nearest_e4m3(quotient.lower()) <= code && code <= nearest_e4m3(quotient.upper());
}

}  // namespace fulgur::reference
