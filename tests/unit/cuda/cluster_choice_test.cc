#include "kernels/cuda/cluster_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/cuda/page_deal.h"

namespace fulgur::cuda {
namespace {

/// As an H200 answers, with a block a multiprocessor (cuda_select_bench): clusters lie within a GPC. What was
/// not asked (7, 9, 11, 13, 15) is as the next larger.
constexpr int kAtOnceOnH200[] = {0, 132, 66, 39, 30, 22, 17, 15, 15, 7, 7, 7, 7, 7, 7, 7, 7};

/// A device of so many multiprocessors that holds clusters of up to `largest` blocks (0, 1: none).
struct Device {
  int multiprocessors;
  int largest;
  [[nodiscard]] int most_blocks() const { return std::max(largest, 1); }
  [[nodiscard]] int at_once(int cluster) const {
    if (multiprocessors == 132 && largest == 16) return kAtOnceOnH200[cluster];
    return cluster <= largest ? multiprocessors / cluster : 0;
  }
};
constexpr Device kH200{132, 16};
// Parts with fewer multiprocessors, and slices of one, beside it.
constexpr Device kDevices[] = {kH200,    {132, 8}, {132, 1}, {132, 0}, {114, 16}, {114, 8}, {114, 0},
                               {78, 16}, {78, 8},  {78, 1},  {78, 0},  {16, 16},  {16, 8},  {14, 1}};
constexpr int kLengths[] = {1,     2049,  8192,   16384,  16385,  32768, 43776,
                            43777, 65536, 131072, 350208, 350209, 524288};

int topk_cluster(const Device& device, int rows, int length) {
  return choose_topk_cluster(rows, length, device.multiprocessors,
                             [&](int cluster) { return device.at_once(cluster); });
}

TEST(ClusterChoice, TopkTakesClustersThatTheDeviceRuns) {
  for (const Device& device : kDevices) {
    for (const int length : kLengths) {
      for (int rows = 1; rows <= 160; ++rows) {
        const int cluster = topk_cluster(device, rows, length);
        const int least = (length + kMostTopkSlice - 1) / kMostTopkSlice;
        if (least > device.most_blocks()) {
          EXPECT_EQ(cluster, 0) << length;
          continue;
        }
        ASSERT_GE(cluster, least) << length;
        EXPECT_LE(cluster, device.most_blocks()) << rows << " x " << length;
        // More blocks than a row needs only where none waits for another row's, or one less had half the
        // threads.
        const bool is_least =
            cluster == least || topk_layout(rows, length, cluster - 1, device.multiprocessors).threads <
                                    wanted_topk_threads(rows, length, cluster - 1, device.multiprocessors);
        EXPECT_TRUE(is_least || rows <= device.at_once(cluster)) << rows << " x " << length;
        const TopkLayout layout = topk_layout(rows, length, cluster, device.multiprocessors);
        EXPECT_GE(layout.slice * cluster, length);
        EXPECT_LE(layout.slice, kMostTopkSlice);
        EXPECT_EQ(layout.slice % 128, 0);
        EXPECT_LE(layout.shared_bytes(), kMostSharedBytes) << rows << " x " << length;
      }
    }
  }
}

TEST(ClusterChoice, TopkSharesFewAndLongRowsOut) {
  struct Row {
    Device device;
    int rows;
    int length;
    int cluster;
  };
  for (const Row& row :
       {Row{kH200, 1, 8192, 8},      Row{kH200, 1, 16384, 16},   Row{kH200, 2, 8192, 8},
        Row{kH200, 8, 8192, 2},      Row{kH200, 32, 8192, 1},    Row{kH200, 8, 32768, 2},
        Row{kH200, 128, 32768, 1},   Row{kH200, 1, 131072, 16},  Row{kH200, 8, 131072, 8},
        Row{kH200, 32, 131072, 3},   Row{kH200, 128, 131072, 3}, Row{kH200, 1, 524288, 16},
        Row{kH200, 12, 524288, 13},  Row{kH200, 24, 524288, 12}, Row{{132, 12}, 12, 524288, 12},
        Row{{114, 8}, 1, 16384, 8},  Row{{78, 8}, 1, 131072, 8}, Row{{78, 8}, 32, 131072, 3},
        Row{{78, 16}, 8, 131072, 8}, Row{{78, 1}, 1, 16384, 1},  Row{{132, 0}, 8, 43776, 1},
        Row{{132, 0}, 1, 43777, 0},  Row{{78, 8}, 1, 350208, 8}, Row{{78, 8}, 1, 350209, 0}}) {
    EXPECT_EQ(topk_cluster(row.device, row.rows, row.length), row.cluster)
        << row.rows << " x " << row.length << " on " << row.device.multiprocessors << ", "
        << row.device.largest;
  }
}

/// Whether a cluster of so many blocks holds a row of so many candidates.
auto holds_decode(int heads, int context) {
  return [=](int cluster) {
    return fits(decode_layout(heads, 1, slice_pages(context, cluster) * kPageKeys, cluster, true), true);
  };
}

TEST(ClusterChoice, DecodeTakesClustersThatTheDeviceRuns) {
  for (const Device& device : kDevices) {
    for (const int heads : {32, 64}) {
      for (const int context : {1, 2049, 8192, 16384, 32768, 131072}) {
        const auto holds = holds_decode(heads, context);
        for (int rows = 1; rows <= 160; ++rows) {
          const int cluster = choose_decode_cluster(rows, device.multiprocessors, holds,
                                                    [&](int each) { return device.at_once(each); });
          int least = 1;
          while (least <= device.most_blocks() && !holds(least)) ++least;
          if (least > device.most_blocks()) {
            EXPECT_EQ(cluster, 0);
            continue;
          }
          EXPECT_GE(cluster, least);
          EXPECT_TRUE(holds(cluster));
          EXPECT_LE(cluster, device.most_blocks());
          EXPECT_TRUE(cluster == least || rows <= device.at_once(cluster));
        }
      }
    }
  }
}

TEST(ClusterChoice, DecodeAt8kIsAsMeasured) {
  for (const auto& [rows, cluster] : {std::pair{1, 16}, {2, 16}, {8, 8}, {32, 3}, {128, 1}}) {
    EXPECT_EQ(choose_decode_cluster(rows, kH200.multiprocessors, holds_decode(64, 8192),
                                    [](int each) { return kH200.at_once(each); }),
              cluster)
        << rows;
  }
}

TEST(ClusterChoice, DealtTopkHoldsItsRows) {
  for (const Device& device : kDevices) {
    for (const int length : kLengths) {
      const int cluster = choose_dealt_topk_cluster(length, [&](int each) { return device.at_once(each); });
      const int least = (length + kMostTopkSlice - 1) / kMostTopkSlice;
      if (least > device.most_blocks()) {
        EXPECT_EQ(cluster, 0) << length;
        continue;
      }
      EXPECT_GE(cluster, least);
      EXPECT_LE(cluster, device.most_blocks());
      const TopkLayout layout = dealt_topk_layout(length, cluster);
      EXPECT_GE(layout.slice * cluster, length);
      EXPECT_LE(layout.slice, kMostTopkSlice);
      EXPECT_LE(layout.shared_bytes() + kDealtListBytes, kMostSharedBytes) << length;
    }
  }
  const auto on_h200 = [](int cluster) { return kH200.at_once(cluster); };
  EXPECT_EQ(choose_dealt_topk_cluster(65536, on_h200), 2);
  EXPECT_EQ(choose_dealt_topk_cluster(131072, on_h200), 4);
  EXPECT_EQ(choose_dealt_topk_cluster(524288, on_h200), 16);
}

TEST(ClusterChoice, RowsShareKeysWhereSequencesHaveMoreThanOneAndAHalf) {
  EXPECT_EQ(rows_that_share(1, 1), 1);
  EXPECT_EQ(rows_that_share(33, 32), 1);
  EXPECT_EQ(rows_that_share(48, 32), 1);
  EXPECT_EQ(rows_that_share(49, 32), 2);
  EXPECT_EQ(rows_that_share(64, 32), 2);
  EXPECT_EQ(rows_that_share(65, 32), 3);
  EXPECT_EQ(rows_that_share(2, 1), 2);
  EXPECT_EQ(rows_that_share(300, 3), kMostDecodeRows);
}

TEST(ClusterChoice, DecodeIsOneKernelWhereThatIsFaster) {
  struct Row {
    int rows;
    int context;
    bool is_fused;
  };
  const auto at_once = [](int cluster) { return kH200.at_once(cluster); };
  // Measured on an H200: docs/performance.md, "Which of the two ways".
  for (const Row& row :
       {Row{132, 4096, true},  Row{67, 4096, true},    Row{133, 4096, false}, Row{1, 8192, true},
        Row{32, 8192, true},   Row{66, 8192, true},    Row{67, 8192, false},  Row{80, 8192, false},
        Row{96, 8192, true},   Row{132, 8192, true},   Row{133, 8192, false}, Row{200, 8192, false},
        Row{240, 8192, true},  Row{1, 16384, false},   Row{2, 16384, true},   Row{66, 16384, true},
        Row{67, 16384, false}, Row{128, 16384, false}, Row{2, 32768, false},  Row{4, 32768, true},
        Row{30, 32768, true},  Row{32, 32768, false},  Row{67, 32768, false}, Row{4, 65536, false},
        Row{1, 131072, false}}) {
    const int cluster =
        choose_decode_cluster(row.rows, kH200.multiprocessors, holds_decode(64, row.context), at_once);
    EXPECT_EQ(decode_is_fused(row.rows, cluster, at_once(cluster), row.context), row.is_fused)
        << row.rows << " x " << row.context << " by clusters of " << cluster;
  }
}

/// Rows of whatever lengths, as the kernel finds them.
struct Line {
  explicit Line(const std::vector<int>& pages_of_runs) : runs(static_cast<int>(pages_of_runs.size())) {
    int all = 0;
    for (int i = 0; i <= kMostDealtRows; ++i) {
      first_pages[i] = all;
      if (i < runs) all += pages_of_runs[static_cast<size_t>(i)];
    }
    pages = all;
  }
  int runs;
  int pages = 0;
  int first_pages[kMostDealtRows + 1] = {};
};

TEST(PageDeal, EveryPageIsDealtOnceInEqualParts) {
  std::vector<int> many(kMostDealtRows);
  for (size_t i = 0; i < many.size(); ++i) many[i] = 1 + static_cast<int>(i * i % 97);
  for (const std::vector<int>& runs :
       {std::vector<int>{}, {1}, {2048}, {128, 128, 128}, {2048, 33, 33, 128, 1, 40}, many}) {
    const Line line(runs);
    for (const int grid : {1, 7, 114, 132}) {
      const int blocks = dealt_blocks(line.pages, grid);
      EXPECT_LE(blocks, grid);
      int next = 0;
      for (int block = 0; block < blocks; ++block) {
        const int begin = first_dealt_page(line.pages, block, blocks);
        const int end = first_dealt_page(line.pages, block + 1, blocks);
        EXPECT_EQ(begin, next);
        EXPECT_GT(end, begin);
        EXPECT_LE(end - begin, line.pages / blocks + 1);
        next = end;
      }
      EXPECT_EQ(next, line.pages);
    }
    for (int page = 0; page < line.pages; ++page) {
      const int run = run_of_page(line.first_pages, line.runs, page);
      ASSERT_LE(line.first_pages[run], page);
      ASSERT_GT(line.first_pages[run + 1], page);
    }
  }
}

TEST(PageDeal, EveryShortRowIsOfOneBlock) {
  for (const int blocks : {112, 120, 132}) {
    for (const int busy : {0, 4, 16, 112 - 4}) {
      for (const int rows : {0, 1, 128, 256}) {
        std::vector<int> taken(static_cast<size_t>(rows), 0);
        int most_of_busy = 0;
        int most_of_free = 0;
        for (int block = 0; block < blocks; ++block) {
          int n = 0;
          for (int row; (row = dealt_short_row(n, block, busy, blocks)) < rows; ++n)
            ++taken[static_cast<size_t>(row)];
          (block < busy ? most_of_busy : most_of_free) =
              std::max(n, block < busy ? most_of_busy : most_of_free);
        }
        EXPECT_EQ(std::count(taken.begin(), taken.end(), 1), rows);
        EXPECT_TRUE(most_of_busy == 0 || most_of_free >= most_of_busy + 1)
            << blocks << " " << busy << " " << rows;
      }
    }
  }
}

}  // namespace
}  // namespace fulgur::cuda
