#include "runtime/selection.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "kernels/cpu/cpu_backend.h"
#include "ops/context.h"

namespace fulgur {
namespace {

constexpr int kTopk = 8;

/// Rows `first`..`first + count - 1` of one sequence, selected by `source` over rows that the indexer left as
/// 1000 + i.
std::vector<std::vector<int32_t>> select(SelectionSource& source, int layer, int first, int count) {
  const Backend& backend = *cpu_backend(Isa::kScalar);
  Context context{.backend = &backend};
  std::vector<int32_t> positions(static_cast<size_t>(count));
  std::iota(positions.begin(), positions.end(), first);
  const TokenBatch batch{.num_tokens = count, .num_sequences = 1, .position = positions.data()};
  std::vector<int32_t> selected(static_cast<size_t>(count) * kTopk);
  std::iota(selected.begin(), selected.end(), 1000);
  source.select(layer, batch, context, {selected.data(), count, kTopk});
  std::vector<std::vector<int32_t>> rows;
  for (int t = 0; t < count; ++t)
    rows.emplace_back(selected.begin() + t * kTopk, selected.begin() + (t + 1) * kTopk);
  return rows;
}

TEST(RecentSelection, TakesTheLastPositionsAscendingAndPadsShortRows) {
  RecentSelection recent;
  const auto rows = select(recent, 0, 2, 20);
  EXPECT_EQ(rows[0], (std::vector<int32_t>{0, 1, 2, -1, -1, -1, -1, -1}));
  EXPECT_EQ(rows[10], (std::vector<int32_t>{5, 6, 7, 8, 9, 10, 11, 12}));
}

TEST(RandomSelection, TakesDistinctAscendingPastPositionsThatDontDependOnTheChunk) {
  RandomSelection random(7);
  const auto rows = select(random, 1, 0, 100);
  std::set<std::vector<int32_t>> distinct;
  for (int t = 0; t < 100; ++t) {
    const auto& row = rows[static_cast<size_t>(t)];
    const auto count = std::min(kTopk, t + 1);
    EXPECT_EQ(std::set<int32_t>(row.begin(), row.begin() + count).size(), static_cast<size_t>(count));
    EXPECT_TRUE(std::is_sorted(row.begin(), row.begin() + count));
    EXPECT_GE(row.front(), 0);
    EXPECT_LE(row[static_cast<size_t>(count) - 1], t);
    EXPECT_EQ(select(random, 1, t, 1).front(), row);
    distinct.insert(row);
  }
  EXPECT_EQ(distinct.size(), 100U);
  EXPECT_NE(select(random, 2, 90, 1), select(random, 1, 90, 1));
}

TEST(InjectedSelection, ReplacesTheRowOfEachPosition) {
  InjectedSelection injected;
  injected.set({{3, {.positions = {0, -1, 0, 1, 1, 2}, .cols = 2}}});
  const auto rows = select(injected, 3, 1, 2);
  EXPECT_EQ(rows[0], (std::vector<int32_t>{0, 1, -1, -1, -1, -1, -1, -1}));
  EXPECT_EQ(rows[1], (std::vector<int32_t>{1, 2, -1, -1, -1, -1, -1, -1}));
}

TEST(InjectedSelection, IsAsWideAsItsWidestLayerAndIndexTopk) {
  InjectedSelection injected;
  injected.set({{0, {.positions = {0, -1}, .cols = 2}}, {1, {.positions = {0}, .cols = 1}}});
  EXPECT_EQ(injected.width(1), 2);
  EXPECT_EQ(injected.width(8), 8);
}

}  // namespace
}  // namespace fulgur
