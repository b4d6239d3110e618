#include "kernels/cuda/cluster_choice.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

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

TEST(ClusterChoice, DecodeTakesClustersThatTheDeviceRuns) {
  for (const Device& device : kDevices) {
    for (const int heads : {32, 64}) {
      for (const int tokens : {1, 4}) {
        for (const int context : {1, 2049, 8192, 16384, 32768, 131072}) {
          for (int groups = 1; groups <= 160; ++groups) {
            const auto holds = [&](int cluster) {
              return fits(
                  decode_layout(heads, tokens, slice_pages(context, cluster) * kPageKeys, cluster, true),
                  true);
            };
            const int cluster = choose_decode_cluster(groups, device.multiprocessors, holds,
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
            EXPECT_TRUE(cluster == least || groups <= device.at_once(cluster));
          }
        }
      }
    }
  }
}

TEST(ClusterChoice, DecodeAt8kIsAsMeasured) {
  const auto holds = [](int cluster) {
    return fits(decode_layout(64, 1, slice_pages(8192, cluster) * kPageKeys, cluster, true), true);
  };
  for (const auto& [groups, cluster] : {std::pair{1, 16}, {2, 16}, {8, 8}, {32, 3}, {128, 1}}) {
    EXPECT_EQ(choose_decode_cluster(groups, kH200.multiprocessors, holds,
                                    [](int each) { return kH200.at_once(each); }),
              cluster)
        << groups;
  }
}

}  // namespace
}  // namespace fulgur::cuda
