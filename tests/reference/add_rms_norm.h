#pragma once

#include "ops/norm.h"
#include "reference/rms_norm.h"
#include "reference/table.h"

namespace fulgur::reference {

struct AddedAndNormed {
  Table sum;  // exact: one f32 addition has one result
  Table out;
};

/// sum += delta, then out = RMS(sum; g, eps). Reads op.sum as it is before the op.
inline AddedAndNormed add_rms_norm(const AddRmsNorm& op) {
  AddedAndNormed result{Table(op.sum.rows, op.sum.cols), {}};
  for (int64_t t = 0; t < op.sum.rows; ++t) {
    for (int64_t i = 0; i < op.sum.cols; ++i) result.sum.at(t, i) = op.sum.row(t)[i] + op.delta.row(t)[i];
  }
  result.out = as_operand(rms_norm(result.sum, values_of(op.gain).row(0), op.eps), op.out.dtype);
  return result;
}

}  // namespace fulgur::reference
