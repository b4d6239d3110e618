#pragma once

#include "ops/linear.h"
#include "reference/rms_norm.h"
#include "reference/table.h"

namespace fulgur::reference {

/// x W^T.
inline Table linear(const Table& x, const Table& w) {
  Table y(x.rows, w.rows);
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t o = 0; o < w.rows; ++o) y.at(t, o) = dot(x.row(t), w.row(o));
  }
  return y;
}

inline Table linear(const Linear& op) {
  return as_operand(linear(values_of(op.x), values_of(op.w)), op.y.dtype);
}

}  // namespace fulgur::reference
