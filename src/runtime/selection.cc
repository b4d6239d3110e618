#include "runtime/selection.h"

#include <algorithm>
#include <functional>
#include <set>

#include "base/counter_rng.h"
#include "ops/backend.h"

namespace fulgur {
namespace {

/// Keeps these draws apart from those of the sampler, which uses the same generator.
constexpr uint32_t kRandomSelectionStream = 1;

/// Lets `fill(position, row)` write each row on the host, prefilled with -1.
void replace_rows(const TokenBatch& batch, Context& context, Matrix<int32_t> selected,
                  const std::function<void(int64_t position, std::span<int32_t> row)>& fill) {
  std::vector<int32_t> positions(static_cast<size_t>(batch.num_tokens));
  context.backend->download(positions.data(), batch.position, positions.size() * sizeof(int32_t));
  std::vector<int32_t> row(static_cast<size_t>(selected.cols));
  for (int64_t t = 0; t < selected.rows; ++t) {
    std::ranges::fill(row, -1);
    fill(positions[static_cast<size_t>(t)], row);
    context.backend->upload(selected.row(t), row.data(), row.size() * sizeof(int32_t));
  }
}

}  // namespace

void RecentSelection::select(int /*layer*/, const TokenBatch& batch, Context& context,
                             Matrix<int32_t> selected) {
  replace_rows(batch, context, selected, [](int64_t position, std::span<int32_t> row) {
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(row.size()), position + 1);
    for (int64_t i = 0; i < count; ++i)
      row[static_cast<size_t>(i)] = static_cast<int32_t>(position + 1 - count + i);
  });
}

void RandomSelection::select(int layer, const TokenBatch& batch, Context& context, Matrix<int32_t> selected) {
  replace_rows(batch, context, selected, [&](int64_t position, std::span<int32_t> row) {
    const int64_t candidates = position + 1;
    const int64_t count = std::min<int64_t>(static_cast<int64_t>(row.size()), candidates);
    const auto below = [&](int64_t draw, int64_t limit) {
      const auto word = philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(layer),
                                    static_cast<uint32_t>(draw), kRandomSelectionStream},
                                   {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)})[0];
      return static_cast<int32_t>((uint64_t{word} * static_cast<uint64_t>(limit)) >> 32);
    };
    // Floyd: for each j of the last `count` candidates take a random one up to j, or j itself where that is
    // taken.
    std::set<int32_t> chosen;
    for (int64_t j = candidates - count; j < candidates; ++j) {
      const int32_t drawn = below(j, j + 1);
      chosen.insert(chosen.contains(drawn) ? static_cast<int32_t>(j) : drawn);
    }
    std::ranges::copy(chosen, row.begin());
  });
}

int64_t InjectedSelection::width(int64_t index_topk) const {
  for (const auto& [layer, rows] : by_layer_) index_topk = std::max(index_topk, rows.cols);
  return index_topk;
}

void InjectedSelection::select(int layer, const TokenBatch& batch, Context& context,
                               Matrix<int32_t> selected) {
  const Rows& rows = by_layer_.at(layer);
  replace_rows(batch, context, selected, [&](int64_t position, std::span<int32_t> row) {
    const auto count =
        static_cast<std::ptrdiff_t>(std::min<int64_t>(rows.cols, static_cast<int64_t>(row.size())));
    const auto from = rows.positions.begin() + static_cast<std::ptrdiff_t>(position * rows.cols);
    std::copy(from, from + count, row.begin());
  });
}

}  // namespace fulgur
