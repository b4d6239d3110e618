#pragma once

#include "ops/ffn.h"
#include "reference/linear.h"
#include "reference/table.h"

namespace fulgur::reference {

struct FfnTables {
  Table gate;  // [I, d]
  Table up;    // [I, d]
  Table down;  // [d, I]
};
inline FfnTables values_of(const FfnWeights& w) {
  return {values_of(w.gate), values_of(w.up), values_of(w.down)};
}

/// FFN(x) = (silu(x W_gate^T) * (x W_up^T)) W_down^T; the gated product is an operand of `dtype`.
inline Table ffn(const Table& x, const FfnTables& weights, DType dtype) {
  Table gated = linear(x, weights.gate);
  const Table up = linear(x, weights.up);
  for (size_t i = 0; i < gated.data.size(); ++i)
    gated.data[i] = as_operand(silu(gated.data[i]) * up.data[i], dtype);
  return linear(gated, weights.down);
}

inline Table ffn(const Ffn& op) { return ffn(values_of(op.x), values_of(op.weights), op.x.dtype); }

}  // namespace fulgur::reference
