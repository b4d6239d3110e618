#pragma once

#include <numeric>

#include "ops/mla_attention.h"
#include "reference/mla_attention.h"

namespace fulgur::reference {

/// Absorbed attention over all positions first_position <= s <= position[t].
inline Table dense_mla(const DenseMla& op) {
  return attend_all(op, [&](int64_t t) {
    const int first = op.batch.first_position;
    std::vector<int32_t> all(static_cast<size_t>(op.batch.position[t] + 1 - first));
    std::iota(all.begin(), all.end(), first);
    return all;
  });
}

}  // namespace fulgur::reference
