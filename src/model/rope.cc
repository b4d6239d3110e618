#include "model/rope.h"

#include <algorithm>
#include <cmath>
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

RopeTables::RopeTables(const Config& config, int64_t num_positions)
    : num_positions_(num_positions), num_pairs_(config.qk_rope_head_dim / 2) {
  const std::vector<double> frequencies = rope_frequencies(config.rope, config.qk_rope_head_dim);
  const double factor = rope_attention_factor(config.rope);
  const auto size = static_cast<size_t>(num_positions_ * num_pairs_);
  cos_.reserve(size);
  sin_.reserve(size);
  for (int64_t t = 0; t < num_positions_; ++t) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(t) * frequency;
      cos_.push_back(static_cast<float>(std::cos(angle) * factor));
      sin_.push_back(static_cast<float>(std::sin(angle) * factor));
    }
  }
}

RopeTable RopeTables::view() const {
  return {.cos = {cos_.data(), num_positions_, num_pairs_}, .sin = {sin_.data(), num_positions_, num_pairs_}};
}

PlacedRope::PlacedRope(const Config& config, int64_t num_positions, const Backend& backend) {
  const RopeTables tables(config, std::min(config.max_position_embeddings, num_positions));
  const auto place = [&](BackendBuffer& buffer, Matrix<const float> values) {
    const size_t bytes = static_cast<size_t>(values.rows * values.cols) * sizeof(float);
    buffer = BackendBuffer(backend, bytes);
    backend.upload(buffer.data(), values.data, bytes);
    return Matrix<const float>(static_cast<const float*>(buffer.data()), values.rows, values.cols);
  };
  view_ = {.cos = place(cos_, tables.view().cos), .sin = place(sin_, tables.view().sin)};
}

}  // namespace fulgur
