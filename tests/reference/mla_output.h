#pragma once

#include "ops/mla_prepare.h"
#include "reference/linear.h"
#include "reference/table.h"

namespace fulgur::reference {

/// o[t,h] = UV_h u[t,h], then o W_o^T.
inline Table mla_output(const MlaOutput& op) {
  const MlaShape& shape = op.shape;
  const Table u = values_of(op.u);
  const Table uv = values_of(op.weights.uv);  // [h*dv, r]
  Table o(u.rows, int64_t{shape.num_heads} * shape.value);
  for (int64_t t = 0; t < u.rows; ++t) {
    for (int64_t i = 0; i < o.cols; ++i) {
      const int64_t head = i / shape.value;
      const Row latent =
          u.row(t).subspan(static_cast<size_t>(head * shape.kv_lora), static_cast<size_t>(shape.kv_lora));
      o.at(t, i) = as_operand(dot(uv.row(i), latent), op.u.dtype);
    }
  }
  return linear(o, values_of(op.weights.o));
}

}  // namespace fulgur::reference
