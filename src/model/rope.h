#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"
#include "ops/buffer.h"
#include "ops/token_batch.h"

namespace fulgur {

/// Where yarn's ramp between kept and stretched frequencies begins and ends, in pairs of components.
struct YarnRamp {
  double lo = 0;
  double hi = 0;
};
YarnRamp yarn_ramp(const RopeConfig& rope, int64_t rope_dim);

/// Angle per position of each pair j = 0 .. rope_dim / 2 - 1: theta^(-2j / rope_dim), with yarn those above
/// the ramp divided by the factor (docs/spec/model.md, section 2).
std::vector<double> rope_frequencies(const RopeConfig& rope, int64_t rope_dim);

/// A: what cos and sin are multiplied by.
double rope_attention_factor(const RopeConfig& rope);

/// cos and sin, times A, of the angles of positions [first, first + count), computed in double: into `cos`
/// and `sin`, [count, dr / 2] each.
void compute_rope(const Config& config, int64_t first, int64_t count, std::vector<float>& cos,
                  std::vector<float>& sin);

/// Those of the positions below `num_positions` that the model has, in back-end memory.
class PlacedRope {
 public:
  PlacedRope(const Config& config, int64_t num_positions, const Backend& backend);

  [[nodiscard]] RopeTable view() const { return view_; }

 private:
  BackendBuffer cos_;
  BackendBuffer sin_;
  RopeTable view_;
};

}  // namespace fulgur
