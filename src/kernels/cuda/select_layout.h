#pragma once

// What a block has in shared memory for a selection, and what a block of the top-k kernel has there in all,
// as functions that both the kernels and their host tests call.

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/radix_window.h"

namespace fulgur::cuda {

constexpr size_t kMostSharedBytes = 232448;  // a block of compute capability 9.0
constexpr int kMostCluster = 16;             // blocks, where the device has room for so many
constexpr uint32_t kMostCandidates = 2048;   // of all blocks together

constexpr int round_up(int value, int to) { return (value + to - 1) / to * to; }

/// Words of a block's counts as it sends them (topk_exchange.cuh): groups and bins, two counts of 16 bits in
/// a word, and its guess.
struct CountWords {
  static constexpr uint32_t kGroupWords = kBinGroup / 2;
  static constexpr uint32_t kGuessWord = 2 * kGroupWords;
  static constexpr uint32_t kWords = kGuessWord + 4;  // whole vectors
  static constexpr uint32_t kVectors = kWords / 4;
};

/// Words of a selection's scratch: what must be zero before it, then the rest.
struct SelectWords {
  // Counts of the passes' bins, and of groups of 64 of them.
  static constexpr uint32_t kHistograms = pass_bins(0) + pass_bins(1) + pass_bins(2);
  static constexpr uint32_t kGroups = 3 * kBinGroup;
  static constexpr uint32_t kCounters = 4;
  static constexpr uint32_t kCleared = kHistograms + kGroups + kCounters;
  static constexpr uint32_t kSums = 2 * 2 * 2 * kBinGroup;

  /// Places that a warp lists.
  static constexpr uint32_t listed_places(uint32_t warps) { return warps == 32 ? 184 : 3072 / warps; }
  static constexpr int all(int threads, int cluster) {
    const auto blocks = static_cast<uint32_t>(cluster);
    const auto warps = static_cast<uint32_t>(threads) / 32;
    return static_cast<int>(kCleared + kMostCandidates + 32 + 64 + 4 + 8 + warps * listed_places(warps) / 2 +
                            (cluster > 1 ? kSums + 2 * blocks * CountWords::kWords : 0));
  }
};

/// How a launch of the top-k kernel shares a row out.
struct TopkLayout {
  int cluster;            // blocks of a row
  int threads;            // of a block, 512 or 1024
  int slice;              // scores that a block has room for
  bool is_dealt = false;  // clusters take all rows by turns, blocks those that fit one

  [[nodiscard]] constexpr size_t shared_bytes() const {
    return sizeof(uint32_t) *
           static_cast<size_t>(SelectWords::all(threads, cluster) + slice + round_up(slice / 64, 4));
  }
};

constexpr int kMostTopkSlice = 43776;  // a third of 128k
constexpr int kDealtListBytes = 512;   // beside shared_bytes(): which rows there are

constexpr int topk_slice(int length, int cluster) {
  constexpr int kStep = 128;  // whole pages, and whole 16-byte reads of a warp
  return (length + cluster * kStep - 1) / (cluster * kStep) * kStep;
}

/// Threads that a block should have. Many rows: blocks small enough that others work while one waits.
constexpr int wanted_topk_threads(int rows, int length, int cluster, int multiprocessors) {
  constexpr int kLongSlice = 8192;
  return topk_slice(length, cluster) > kLongSlice && rows * cluster <= 2 * multiprocessors ? 1024 : 512;
}
/// Of `rows` rows of `length` scores; 512 threads where scores leave no room for the lists of more.
constexpr TopkLayout topk_layout(int rows, int length, int cluster, int multiprocessors) {
  TopkLayout layout{cluster, wanted_topk_threads(rows, length, cluster, multiprocessors),
                    topk_slice(length, cluster)};
  if (layout.shared_bytes() > kMostSharedBytes) layout.threads = 512;
  return layout;
}
/// For rows of up to `length` scores, dealt.
constexpr TopkLayout dealt_topk_layout(int length, int cluster) {
  TopkLayout layout{cluster, 1024, topk_slice(length, cluster), true};
  if (layout.shared_bytes() > kMostSharedBytes - kDealtListBytes) layout.threads = 512;
  return layout;
}
static_assert(TopkLayout{kMostCluster, 512, kMostTopkSlice}.shared_bytes() <=
              kMostSharedBytes - kDealtListBytes);

}  // namespace fulgur::cuda
