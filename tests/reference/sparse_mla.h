#pragma once

#include "ops/mla_attention.h"
#include "reference/mla_attention.h"

namespace fulgur::reference {

/// Absorbed attention over the selected positions.
inline Table sparse_mla(const SparseMla& op) {
  return attend_all(op, [&](int64_t t) {
    const int32_t* row = op.selected.row(t);
    return std::span(row, std::find(row, row + op.selected.cols, -1));
  });
}

}  // namespace fulgur::reference
