#pragma once

#include "ops/norm.h"
#include "reference/table.h"

namespace fulgur::reference {

/// RMS(x; g, eps) = g * x / sqrt(mean(x^2) + eps), row by row.
inline Table rms_norm(const Table& x, Row gain, double eps) {
  Table out(x.rows, x.cols);
  for (int64_t t = 0; t < x.rows; ++t) {
    const Real mean_square = dot(x.row(t), x.row(t)) / Real(static_cast<double>(x.cols));
    const Real root = square_root(mean_square + Real(eps));
    for (int64_t i = 0; i < x.cols; ++i) out.at(t, i) = gain[static_cast<size_t>(i)] * (x.at(t, i) / root);
  }
  return out;
}

/// Every number as an operand of the next product.
inline Table as_operand(Table x, DType dtype) {
  for (Real& value : x.data) value = as_operand(value, dtype);
  return x;
}

inline Table rms_norm(const RmsNorm& op) {
  return as_operand(rms_norm(values_of(op.x), values_of(op.gain).row(0), op.eps), op.out.dtype);
}

}  // namespace fulgur::reference
