#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_team.h"
#include "base/weight.h"
#include "checkpoint/catalog.h"
#include "checkpoint/conversion_plan.h"

namespace fulgur {

/// Rows of a stored module, with its scales.
struct StoredRows {
  Weight weight;
  std::vector<float> block_scales;
  std::vector<std::byte> drawn_weight;  // of tensors that lie in no file
  std::vector<std::byte> drawn_groups;
};

/// Throws bad_scale for scales that none may be, and for those of blocks or groups that are 0 over codes that
/// aren't.
StoredRows stored_rows(ThreadTeam& team, const Catalog& catalog, const SourceRows& rows);

/// Throws bad_value for rows of a file of which a product of code and scale is infinite as bf16. Codes are
/// looked at only under scales that are so large.
void refuse_infinite_products(ThreadTeam& team, const Catalog& catalog, const SourceRows& rows);

/// The tensor that holds them.
const CatalogEntry& weight_of(const Catalog& catalog, const SourceRows& rows);

/// Draws bytes of a tensor, from `begin` on, on all threads.
void draw_on(ThreadTeam& team, const Catalog& catalog, const CatalogEntry& entry, uint64_t begin,
             std::span<std::byte> to);

}  // namespace fulgur
