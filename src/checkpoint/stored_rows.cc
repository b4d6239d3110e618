#include "checkpoint/stored_rows.h"

#include <algorithm>
#include <utility>

#include "checkpoint/load_scales.h"
#include "checkpoint/scaled_values.h"

namespace fulgur {
namespace {

/// All of a tensor: where it lies in its file, or drawn into `drawn`.
const std::byte* all_bytes(ThreadTeam& team, const Catalog& catalog, int number,
                           std::vector<std::byte>& drawn) {
  const CatalogEntry& entry = catalog.entries[static_cast<size_t>(number)];
  if (!entry.drawn) return catalog.bytes(entry).data();
  drawn.resize(entry.bytes);
  draw_on(team, catalog, entry, 0, drawn);
  return drawn.data();
}

void refuse_zero_scale(const Catalog& catalog, const SourceRows& rows, const Weight& weight) {
  const auto place = first_zero_scale(weight, rows.first_row);
  if (!place) return;
  for (const PlannedScale& scale : rows.source->scales) {
    if (scale.role != ScaleRole::kBlocks && scale.role != ScaleRole::kGroups) continue;
    const CatalogEntry& entry = catalog.entries[static_cast<size_t>(scale.entry)];
    Problem problem = zero_scale_problem(entry, weight_of(catalog, rows), *place);
    problem.file = catalog.file_of(entry);
    catalog.throw_if_damaged(entry);  // what is gone reads as zeros
    throw Error(std::move(problem));
  }
}

/// The same as stored_rows, zero scales not looked at.
StoredRows read_rows(ThreadTeam& team, const Catalog& catalog, const SourceRows& rows) {
  const CatalogEntry& entry = weight_of(catalog, rows);
  StoredRows stored{.weight = {.form = rows.source->form->form,
                               .rows = entry.shape.front(),
                               .cols = entry.shape.back(),
                               .block_rows = rows.source->block_rows,
                               .block_cols = rows.source->block_cols}};
  stored.weight.data = all_bytes(team, catalog, rows.source->entry, stored.drawn_weight);
  if (stored.weight.form == WeightForm::kNvfp4) stored.weight.cols *= kNvfp4CodesPerByte;
  for (const PlannedScale& scale : rows.source->scales) {
    std::vector<float> values = read_scale(scale, catalog);
    switch (scale.role) {
      case ScaleRole::kBlocks:
        stored.block_scales = std::move(values);
        stored.weight.scales = stored.block_scales.data();  // a move of the vector leaves them where they are
        break;
      case ScaleRole::kGroups:
        stored.weight.scales = all_bytes(team, catalog, scale.entry, stored.drawn_groups);
        break;
      case ScaleRole::kFactor:
        stored.weight.global = static_cast<double>(values.front());
        break;
      case ScaleRole::kDivisor:
        stored.weight.global = 1 / static_cast<double>(values.front());
        break;
      case ScaleRole::kActivations:
        break;
    }
  }
  stored.weight = stored.weight.take_rows(rows.first_row, rows.rows);
  return stored;
}

}  // namespace

void draw_on(ThreadTeam& team, const Catalog& catalog, const CatalogEntry& entry, uint64_t begin,
             std::span<std::byte> to) {
  constexpr int64_t kWholeElements = 64;
  team.run([&](int member) {
    const Share share = share_of(static_cast<int64_t>(to.size()), member, team.size(), kWholeElements);
    const auto first = static_cast<size_t>(share.begin);
    catalog.read(entry, begin + first, to.subspan(first, static_cast<size_t>(share.end) - first));
  });
}

const CatalogEntry& weight_of(const Catalog& catalog, const SourceRows& rows) {
  return catalog.entries[static_cast<size_t>(rows.source->entry)];
}

StoredRows stored_rows(ThreadTeam& team, const Catalog& catalog, const SourceRows& rows) {
  StoredRows stored = read_rows(team, catalog, rows);
  if (!is_plain(stored.weight.form)) refuse_zero_scale(catalog, rows, stored.weight);
  return stored;
}

void refuse_infinite_products(ThreadTeam& team, const Catalog& catalog, const SourceRows& rows) {
  constexpr int64_t kElementsAtOnce = int64_t{1} << 22;
  const CatalogEntry& entry = weight_of(catalog, rows);
  if (entry.drawn) return;  // under scales of its form
  const StoredRows stored = read_rows(team, catalog, rows);
  const Weight& weight = stored.weight;
  if (!may_overflow(weight)) return;
  const int64_t step = std::max<int64_t>(1, kElementsAtOnce / weight.cols);
  for (int64_t row = 0; row < weight.rows; row += step) {
    const auto infinite = first_overflow(weight.take_rows(row, std::min(step, weight.rows - row)));
    if (!infinite) continue;
    const int64_t element = (rows.first_row + row) * weight.cols + *infinite;
    Problem problem = infinite_product_problem(entry, element, weight.cols);
    problem.file = catalog.file_of(entry);
    throw Error(std::move(problem));
  }
}

}  // namespace fulgur
