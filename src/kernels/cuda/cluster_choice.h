#pragma once

// How many blocks share a row, as functions that both the launches and their host tests call. What the device
// holds they ask of `at_once`: so many clusters of so many blocks run at once, none where it has no room for
// such a cluster.

#include <initializer_list>

#include "kernels/cuda/decode_layout.h"

namespace fulgur::cuda {

/// Whether clusters for all rows run at once, with a multiprocessor for each block.
template <typename AtOnce>
bool run_side_by_side(int rows, int cluster, int multiprocessors, const AtOnce& at_once) {
  return rows * cluster <= multiprocessors && rows <= at_once(cluster);
}

/// The smallest cluster that holds a row and that the device runs; 0: none.
template <typename Holds, typename AtOnce>
int least_cluster(const Holds& holds, const AtOnce& at_once) {
  for (int cluster = 1; cluster <= kMostCluster; ++cluster)
    if (holds(cluster) && (cluster == 1 || at_once(cluster) > 0)) return cluster;
  return 0;
}

/// Decode: the largest cluster of which one a row runs side by side, else the least. `holds(cluster)`: the
/// layout fits.
template <typename Holds, typename AtOnce>
int choose_decode_cluster(int rows, int multiprocessors, const Holds& holds, const AtOnce& at_once) {
  for (const int cluster : {16, 12, 10, 8, 6, 5, 4, 3, 2})
    if (holds(cluster) && run_side_by_side(rows, cluster, multiprocessors, at_once)) return cluster;
  return least_cluster(holds, at_once);
}

/// The least cluster for rows of `length` scores; 0: none.
template <typename AtOnce>
int least_topk_cluster(int length, const AtOnce& at_once) {
  return least_cluster([&](int cluster) { return topk_slice(length, cluster) <= kMostTopkSlice; }, at_once);
}

/// Top-k; 0: no cluster holds a row. Measured: a block alone is fastest up to 16,384 scores, but for a few
/// rows, which finish sooner shared out; clusters of which some wait for others are not worth it; a block
/// more is better than half the threads.
template <typename AtOnce>
int choose_topk_cluster(int rows, int length, int multiprocessors, const AtOnce& at_once) {
  constexpr int kLongSlice = 16384;
  constexpr int kFewBlocks = 16;
  constexpr int kShortSlice = 1024;
  const auto keeps_threads = [&](int cluster) {
    return topk_slice(length, cluster) <= kMostTopkSlice &&
           topk_layout(rows, length, cluster, multiprocessors).threads ==
               wanted_topk_threads(rows, length, cluster, multiprocessors);
  };
  int least = least_cluster(keeps_threads, at_once);
  if (least == 0) least = least_topk_cluster(length, at_once);
  if (least == 0) return 0;
  int chosen = least;
  for (const int cluster : {2, 4, 8, 16}) {
    if (cluster <= least) continue;
    const bool few = rows * cluster <= kFewBlocks && topk_slice(length, cluster) >= kShortSlice;
    const bool is_long = topk_slice(length, chosen) > kLongSlice;
    if ((few || is_long) && run_side_by_side(rows, cluster, multiprocessors, at_once)) chosen = cluster;
  }
  return chosen;
}

/// Top-k of rows that would wait for others' clusters, of whatever lengths up to `length`. Measured: larger
/// clusters take as long for one long row among short ones, and longer for many. 0: no cluster holds a row.
template <typename AtOnce>
int choose_dealt_topk_cluster(int length, const AtOnce& at_once) {
  constexpr int kLongSlice = 32768;
  int chosen = least_topk_cluster(length, at_once);
  for (const int cluster : {2, 4, 8, 16}) {
    if (chosen > 0 && cluster > chosen && topk_slice(length, chosen) > kLongSlice && at_once(cluster) > 0)
      chosen = cluster;
  }
  return chosen;
}

/// How many rows of a sequence are to share a key as it is read: of a step's `tokens`, which its `sequences`
/// have about alike. Measured: sharing takes two fifths more for a page, so that up to three tokens for two
/// sequences are faster as rows of their own, but for 1 to 7% where every second long sequence has two. It
/// knows the mean alone.
constexpr int rows_that_share(int tokens, int sequences) {
  if (2 * tokens <= 3 * sequences) return 1;
  const int each = sequences > 0 ? (tokens + sequences - 1) / sequences : tokens;
  return each < kMostDecodeRows ? each : kMostDecodeRows;
}

/// Whether scores and selection of rows, one a sequence, go in one kernel, by clusters of `cluster` blocks,
/// of which `at_once` run at once, rather than in two that deal the rows out. Measured: one is faster for
/// rows of equal length while a block's share is short; where it is long, two are about as fast, and many
/// times faster where lengths differ. One or two long rows miss the bandwidth of the multiprocessors that
/// clusters leave idle, and so do rows of a block each that take half of them, and the last of more than run
/// at once.
constexpr bool decode_is_fused(int rows, int cluster, int at_once, int max_context) {
  constexpr int kMostShare = 8192 / kPageKeys;  // pages
  constexpr int kShortShare = 4096 / kPageKeys;
  const int most_context = rows == 1 ? 8192 : rows == 2 ? 16384 : 32768;
  const int share = slice_pages(max_context, cluster);
  if (max_context > most_context || share > kMostShare) return false;
  if (rows <= at_once) return cluster > 1 || share <= kShortShare || rows * 8 >= at_once * 5;
  const int rounds = (rows + at_once - 1) / at_once;
  return cluster == 1 && rows * 8 >= rounds * at_once * 7;
}

}  // namespace fulgur::cuda
