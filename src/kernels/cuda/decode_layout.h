#pragma once

// What a block of the fused decode kernel, or of row scores, holds in shared memory, as functions that host
// tests call, too.

#include "kernels/cuda/index_tile.h"
#include "kernels/cuda/select_layout.h"

namespace fulgur::cuda {

constexpr int kDecodeThreads = 512;
constexpr int kDecodeGroups = kDecodeThreads / 128;  // warpgroups
constexpr int kMostStages = 4;                       // of a warpgroup's ring
constexpr int kClusterStages = 2;        // the same where all multiprocessors read for clusters of few
constexpr int kMostDecodeSlice = 65472;  // of a selection: counts of a block are sent in 16 bits

constexpr int kMostDecodeRows = 4;  // of a sequence, at once

/// In bytes from the (aligned) start of shared memory.
struct DecodeLayout {
  int slice;   // keys of a row
  int stages;  // of each warpgroup
  int queries;
  int weights;
  int pages;
  int barriers;
  int select;
  int keys;
  int ring;
  int total;
};

/// Clusters of a few blocks: they fill the GPU, and longer rings then read no faster.
constexpr bool is_small(int cluster) { return cluster > 1 && cluster <= 4; }

constexpr DecodeLayout decode_layout(int heads, int rows, int slice, int cluster, bool select) {
  DecodeLayout layout{};
  layout.slice = slice;
  layout.queries = 0;  // aligned to 1,024 for the swizzle
  layout.weights = rows * heads * kKeyBytes;
  layout.pages = layout.weights + rows * heads * 4;
  layout.barriers = round_up(layout.pages + slice / kPageKeys * 4, 16);
  layout.select = layout.barriers + kDecodeGroups * kMostStages * 16;
  layout.keys = round_up(layout.select + (select ? SelectWords::all(kDecodeThreads, cluster) * 4 : 0), 128);
  layout.ring = layout.keys + (select ? rows * slice * 4 : 0);
  const int stage_bytes = kDecodeGroups * static_cast<int>(kIndexPageBytes);
  const int left = static_cast<int>(kMostSharedBytes) - 1024 - layout.ring;
  const int wanted = (slice / kPageKeys + kDecodeGroups - 1) / kDecodeGroups;
  layout.stages = left / stage_bytes;
  const int most = select && is_small(cluster) ? kClusterStages : kMostStages;
  if (layout.stages > most) layout.stages = most;
  if (layout.stages > wanted) layout.stages = wanted;
  layout.total = layout.ring + layout.stages * stage_bytes + 1024;  // the start is aligned by hand
  return layout;
}
constexpr bool fits(const DecodeLayout& layout, bool select) {
  return layout.stages > 0 && layout.total <= static_cast<int>(kMostSharedBytes) &&
         (!select || layout.slice <= kMostDecodeSlice);
}

/// Pages of a block's slice of `length` keys.
constexpr int slice_pages(int length, int blocks) {
  const int pages = (length + kPageKeys - 1) / kPageKeys;
  return (pages + blocks - 1) / blocks;
}

}  // namespace fulgur::cuda
