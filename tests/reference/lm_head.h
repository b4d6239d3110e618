#pragma once

#include "ops/linear.h"
#include "reference/linear.h"
#include "reference/table.h"

namespace fulgur::reference {

/// logits = F W_head^T, for the wanted rows.
inline Table lm_head(const LmHead& op) {
  const Table hidden = values_of(op.hidden);
  Table wanted(op.logits.rows, hidden.cols);
  for (int64_t i = 0; i < wanted.rows; ++i) std::ranges::copy(hidden.row(op.rows[i]), wanted.row(i).begin());
  return linear(wanted, values_of(op.w));
}

}  // namespace fulgur::reference
