#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>
#include <span>
#include <vector>

#include "reference/real.h"
#include "reference/table.h"

namespace fulgur::reference {

/// docs/spec/model.md, section 2.
struct Yarn {
  double factor = 1;
  double original_length = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  std::optional<double> attention_factor;
};

struct RopeConfig {
  double theta = 10000;
  int width = 0;  // dr
  std::optional<Yarn> yarn;
};

inline double yarn_magnitude(const Yarn& yarn, double mscale) {
  return yarn.factor <= 1 ? 1 : 0.1 * mscale * std::log(yarn.factor) + 1;
}

/// inv'[j], j = 0 .. dr/2 - 1.
inline std::vector<double> inverse_frequencies(const RopeConfig& rope) {
  const double width = rope.width;
  double lo = 0;
  double hi = 0;
  if (rope.yarn) {
    const auto corr = [&](double rotations) {
      return width * std::log(rope.yarn->original_length / (2 * std::numbers::pi * rotations)) /
             (2 * std::log(rope.theta));
    };
    lo = std::max(std::floor(corr(rope.yarn->beta_fast)), 0.0);
    hi = std::min(std::ceil(corr(rope.yarn->beta_slow)), width - 1);
    if (lo == hi) hi += 0.001;
  }
  std::vector<double> inverse;
  for (int j = 0; j < rope.width / 2; ++j) {
    double inv = std::pow(rope.theta, -2.0 * j / width);
    if (rope.yarn) {
      const double ramp = std::clamp((j - lo) / (hi - lo), 0.0, 1.0);
      inv = inv * (1 - ramp) + inv / rope.yarn->factor * ramp;
    }
    inverse.push_back(inv);
  }
  return inverse;
}

/// A, which multiplies cos and sin.
inline double attention_factor(const RopeConfig& rope) {
  if (!rope.yarn) return 1;
  const Yarn& yarn = *rope.yarn;
  if (yarn.attention_factor) return *yarn.attention_factor;
  if (yarn.mscale.value_or(0) != 0 && yarn.mscale_all_dim.value_or(0) != 0) {
    return yarn_magnitude(yarn, *yarn.mscale) / yarn_magnitude(yarn, *yarn.mscale_all_dim);
  }
  return yarn_magnitude(yarn, 1);
}

/// The scale of the main attention's scores.
inline double softmax_scale(const RopeConfig& rope, int nope) {
  const double plain = 1 / std::sqrt(static_cast<double>(nope + rope.width));
  if (!rope.yarn) return plain;
  const double m = yarn_magnitude(*rope.yarn, rope.yarn->mscale_all_dim.value_or(0));
  return plain * m * m;
}

/// cos and sin of positions 0 .. num_positions - 1, [num_positions, dr/2].
struct RopeAngles {
  Table cos;
  Table sin;
};
inline RopeAngles rope_angles(const RopeConfig& rope, int64_t num_positions) {
  const std::vector<double> inverse = inverse_frequencies(rope);
  const double factor = attention_factor(rope);
  RopeAngles angles{Table(num_positions, rope.width / 2), Table(num_positions, rope.width / 2)};
  for (int64_t t = 0; t < num_positions; ++t) {
    for (int64_t j = 0; j < rope.width / 2; ++j) {
      const double angle = static_cast<double>(t) * inverse[static_cast<size_t>(j)];
      angles.cos.at(t, j) = factor * std::cos(angle);
      angles.sin.at(t, j) = factor * std::sin(angle);
    }
  }
  return angles;
}

/// Rotates x [dr] by one position's cos and sin [dr/2]: pairs (2j, 2j+1) if interleaved, else (j, j + dr/2).
inline void rotate(std::span<Real> x, Row cos, Row sin, bool interleaved) {
  const size_t half = x.size() / 2;
  for (size_t j = 0; j < half; ++j) {
    Real& first = x[interleaved ? 2 * j : j];
    Real& second = x[interleaved ? 2 * j + 1 : j + half];
    const std::array<Real, 2> pair = {first, second};
    first = dot(pair, std::array<Real, 2>{cos[j], -sin[j]});
    second = dot(pair, std::array<Real, 2>{sin[j], cos[j]});
  }
}

}  // namespace fulgur::reference
