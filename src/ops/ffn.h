#pragma once

#include "base/matrix.h"
#include "base/weight.h"

namespace fulgur {

struct Context;

/// The three matrices of a gated FFN of width I.
struct FfnWeights {
  Weight gate;  // [I, hidden]
  Weight up;    // [I, hidden]
  Weight down;  // [hidden, I]
};

/// FFN(x) = (silu(x W_gate^T) * (x W_up^T)) W_down^T (docs/spec/model.md, section 6). The gated product is an
/// operand, rounded once to x's dtype.
struct Ffn {
  Operand x;  // [num_tokens, hidden]
  const FfnWeights& weights;
  Matrix<float> delta;  // out: [num_tokens, hidden]
};
void run(Context&, const Ffn&);

}  // namespace fulgur
