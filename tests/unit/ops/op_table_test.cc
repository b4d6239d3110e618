// The one table over all ops and back ends: every line runs on every instruction set that this CPU has, and
// in an executable of its own on the GPU.

#include "unit/ops/op_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

namespace fulgur::test {
namespace {

class OpTable : public testing::TestWithParam<std::tuple<Tested, TableRow>> {
 protected:
  /// `body` with each case of the line, drawn from a seed that a failure prints.
  void for_each_case(const std::function<void(Machine&, Case&)>& body) const {
    const auto& [tested, row] = GetParam();
    for (int index = 0; index < row.num_cases; ++index) {
      const uint64_t seed = std::hash<std::string>{}(row.name) + static_cast<uint64_t>(index);
      SCOPED_TRACE("case " + std::to_string(index) + ", seed " + std::to_string(seed));
      Machine machine(*tested.backend);
      Random random(seed);
      const std::unique_ptr<Case> c = row.make(machine, random, index);
      body(machine, *c);
      if (testing::Test::HasFatalFailure()) return;
    }
  }

  using Snapshot = std::vector<std::vector<std::byte>>;

  static Snapshot run(Machine& machine, Case& c, int threads, int rows_at_once) {
    machine.upload();
    for (int first = 0; first < c.num_rows(); first += rows_at_once) {
      c.run(machine.context(threads), first, std::min(rows_at_once, c.num_rows() - first));
    }
    machine.download();
    return machine.snapshot();
  }

  /// `==` of std::byte goes byte by byte.
  static bool same(const Snapshot& a, const Snapshot& b) {
    return std::ranges::equal(a, b, [](const auto& x, const auto& y) {
      return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size()) == 0;
    });
  }
};

TEST_P(OpTable, EqualsTheOracleAndWritesNothingElse) {
  for_each_case([](Machine& machine, Case& c) {
    run(machine, c, 2, c.num_rows());
    c.check();
    machine.expect_no_trespass();
  });
}

TEST_P(OpTable, GivesTheSameBitsForAnyThreadsAndAnyDivisionOfTheRows) {
  for_each_case([&](Machine& machine, Case& c) {
    const auto whole = run(machine, c, 1, c.num_rows());
    for (int threads = 2; threads <= Machine::kMostThreads; ++threads) {
      EXPECT_TRUE(same(run(machine, c, threads, c.num_rows()), whole)) << threads << " threads";
    }
    const auto& [tested, row] = GetParam();
    if (row.by_library && is_gpu(*tested.backend)) return;
    for (const int rows_at_once : {1, 3, 8}) {
      EXPECT_TRUE(same(run(machine, c, 2, rows_at_once), whole))
          << rows_at_once << " of " << c.num_rows() << " rows at once";
    }
  });
}

INSTANTIATE_TEST_SUITE_P(BackEnds, OpTable, testing::ValuesIn(all_lines()),
                         [](const testing::TestParamInfo<OpTable::ParamType>& info) {
                           return short_name(std::get<0>(info.param)) + "_" + std::get<1>(info.param).name;
                         });

}  // namespace
}  // namespace fulgur::test
