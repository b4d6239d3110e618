#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace fulgur {
namespace {

/// m(x): how much yarn raises attention's temperature.
double yarn_mscale(const RopeConfig& rope, double x) {
  return rope.factor <= 1 ? 1 : 0.1 * x * std::log(rope.factor) + 1;
}

}  // namespace

YarnRamp yarn_ramp(const RopeConfig& rope, int64_t rope_dim) {
  const auto dim = static_cast<double>(rope_dim);
  const auto corr = [&](double rotations) {
    const auto original = static_cast<double>(rope.original_max_position_embeddings);
    return dim * std::log(original / (2 * std::numbers::pi * rotations)) / (2 * std::log(rope.theta));
  };
  YarnRamp ramp{.lo = std::max(std::floor(corr(rope.beta_fast)), 0.0),
                .hi = std::min(std::ceil(corr(rope.beta_slow)), dim - 1)};
  if (ramp.lo == ramp.hi) ramp.hi += 0.001;
  return ramp;
}

std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t rope_dim) {
  std::vector<double> frequencies;
  for (int64_t j = 0; j < rope_dim / 2; ++j) {
    frequencies.push_back(
        std::pow(rope.theta, -2.0 * static_cast<double>(j) / static_cast<double>(rope_dim)));
  }
  if (rope.type == RopeConfig::Type::kYarn) {
    const auto [lo, hi] = yarn_ramp(rope, rope_dim);
    for (size_t j = 0; j < frequencies.size(); ++j) {
      const double stretched = std::clamp((static_cast<double>(j) - lo) / (hi - lo), 0.0, 1.0);
      frequencies[j] = frequencies[j] * (1 - stretched) + frequencies[j] / rope.factor * stretched;
    }
  }
  return frequencies;
}

double rope_attention_factor(const RopeConfig& rope) {
  if (rope.type != RopeConfig::Type::kYarn) return 1;
  if (rope.attention_factor) return *rope.attention_factor;
  if (rope.mscale != 0 && rope.mscale_all_dim != 0) {
    return yarn_mscale(rope, rope.mscale) / yarn_mscale(rope, rope.mscale_all_dim);
  }
  return yarn_mscale(rope, 1);
}

double Config::softmax_scale() const {
  const double scale = 1 / std::sqrt(static_cast<double>(qk_nope_head_dim + qk_rope_head_dim));
  if (rope.type != RopeConfig::Type::kYarn) return scale;
  const double m = yarn_mscale(rope, rope.mscale_all_dim);  // 1 where it is not given
  return scale * m * m;
}

void compute_rope(const Config& config, int64_t first, int64_t count, std::vector<float>& cos,
                  std::vector<float>& sin) {
  const std::vector<double> frequencies = rope_frequencies(config.rope, config.qk_rope_head_dim);
  const double factor = rope_attention_factor(config.rope);
  cos.clear();
  sin.clear();
  for (int64_t t = first; t < first + count; ++t) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(t) * frequency;
      cos.push_back(static_cast<float>(std::cos(angle) * factor));
      sin.push_back(static_cast<float>(std::sin(angle) * factor));
    }
  }
}

// In pieces: whole, they would be there twice for a while.
PlacedRope::PlacedRope(const Config& config, int64_t num_positions, const Backend& backend) {
  constexpr int64_t kPiece = 256;
  num_positions = std::min(config.max_position_embeddings, num_positions);
  const int64_t num_pairs = config.qk_rope_head_dim / 2;
  const auto bytes_of = [&](int64_t positions) {
    return static_cast<size_t>(positions * num_pairs) * sizeof(float);
  };
  cos_ = BackendBuffer(backend, bytes_of(num_positions));
  sin_ = BackendBuffer(backend, bytes_of(num_positions));
  std::vector<float> cos;
  std::vector<float> sin;
  for (int64_t first = 0; first < num_positions; first += kPiece) {
    const int64_t count = std::min(kPiece, num_positions - first);
    compute_rope(config, first, count, cos, sin);
    backend.upload(static_cast<std::byte*>(cos_.data()) + bytes_of(first), cos.data(), bytes_of(count));
    backend.upload(static_cast<std::byte*>(sin_.data()) + bytes_of(first), sin.data(), bytes_of(count));
  }
  view_ = {.cos = {static_cast<const float*>(cos_.data()), num_positions, num_pairs},
           .sin = {static_cast<const float*>(sin_.data()), num_positions, num_pairs}};
}

}  // namespace fulgur
