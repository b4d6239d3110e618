#pragma once

#include "base/matrix.h"
#include "base/weight.h"

namespace fulgur {

struct Context;

/// RMS(x; g, eps) = g * x / sqrt(mean(x^2) + eps), each row alone, sums in f32 (docs/spec/model.md, section
/// 1). `out` is rounded once to its dtype.
struct RmsNorm {
  Matrix<const float> x;  // [num_tokens, width]
  Weight gain;            // [1, width]
  float eps;
  Operand out;  // out: [num_tokens, width], bf16 or f32
};
void run(Context&, const RmsNorm&);

/// sum += delta, then out = RMS(sum; g, eps): folds the pending contribution of the last block into the
/// residual stream on the way into the next. `delta` is not changed.
struct AddRmsNorm {
  Matrix<float> sum;          // in, out: [num_tokens, hidden]
  Matrix<const float> delta;  // [num_tokens, hidden]
  Weight gain;                // [1, hidden]
  float eps;
  Operand out;  // out: [num_tokens, hidden], bf16 or f32
};
void run(Context&, const AddRmsNorm&);

}  // namespace fulgur
