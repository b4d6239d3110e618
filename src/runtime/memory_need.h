#pragma once

#include <cstdint>

#include "model/inspection.h"
#include "model/load.h"

namespace fulgur {

/// What running a model takes in memory, the scratch of its steps aside.
struct MemoryNeed {
  WeightBytes weights;
  uint64_t cache = 0;  // paged caches
  [[nodiscard]] uint64_t total() const { return weights.mapped + weights.copied + cache; }
};

/// With caches for `cache_tokens` tokens, in whole pages; `with_mtp`: what the MTP layer takes is in it.
MemoryNeed memory_need(const Config& config, Precision precision, const ModelPlan& plan,
                       const Catalog& catalog, int64_t cache_tokens, bool with_mtp);

/// Throws bad_request where what can't be mapped, copied weights and caches, is more than the memory that is
/// available; nothing has been allocated by then.
void check_fits(const MemoryNeed& need);

}  // namespace fulgur
