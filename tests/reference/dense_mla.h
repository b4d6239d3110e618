#pragma once

#include <numeric>

#include "ops/mla_attention.h"
#include "reference/mla_attention.h"

namespace fulgur::reference {

/// Absorbed attention over all positions s <= position[t].
inline Table dense_mla(const DenseMla& op) {
  return attend_all(op, [&](int64_t t) {
    std::vector<int32_t> all(static_cast<size_t>(op.batch.position[t]) + 1);
    std::iota(all.begin(), all.end(), 0);
    return all;
  });
}

}  // namespace fulgur::reference
