#pragma once

// The exact top-k of the keys that a cluster of blocks holds in shared memory, each a contiguous slice of the
// positions, in the order of their ranks.
//
// A pass (radix_window.h) is a histogram in each block's shared memory by integer atomics, whose order does
// not matter, and a search for the k-th key's bin that every block makes for itself from the sums over the
// cluster. After the first pass each warp lists the positions of its share that may be selected, in order, so
// later passes touch little. Output places are prefix counts in position order: within a warp by ballots,
// over warps and blocks by scans. So of equal keys the lower positions are taken, and positions come out
// ascending.
//
// Cost a block: one pass over n keys while they are made (an atomic each), one over n keys (a load, a
// compare), then over the survivors, about topk in all. A cluster meets once a pass and once for the output.

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/radix_window.h"

namespace fulgur::cuda {

constexpr int kMostCluster = 16;

/// A block's shared memory for a selection. Peers read `groups` and the histograms.
struct SelectScratch {
  uint32_t* histogram[2];  // [4096], [2048]
  uint16_t* survivors;     // [slice]
  uint32_t* small;         // [kWords]

  static constexpr int kGroupWords = 65;  // 64 sums and whether a NaN was met
  static constexpr int kWords = 2 * kGroupWords + 64 + 64 + 2 * kMostCluster + 2 * 32 + 4;
  __device__ uint32_t* groups(int parity) const { return small + parity * kGroupWords; }
  __device__ uint32_t* group_sums() const { return small + 2 * kGroupWords; }
  __device__ uint32_t* bin_sums() const { return group_sums() + 64; }
  __device__ uint32_t* block_counts() const { return bin_sums() + 64; }                   // [kMostCluster][2]
  __device__ uint32_t* warp_counts() const { return block_counts() + 2 * kMostCluster; }  // [32][2]
};

/// Where one row's selection goes.
struct SelectedRow {
  int32_t* positions;          // [topk]
  int32_t* slots;              // [topk], null: not wanted
  const int32_t* slice_pages;  // the slice's part of the page table, shared memory
};

__device__ inline uint32_t lanes_below(uint32_t lane) { return (1U << lane) - 1; }

/// Where the running sum of 64 counts, from the last down, reaches `needed` (which it does). By a whole warp.
__device__ inline Crossing find_crossing(const uint32_t* counts, uint32_t needed, uint32_t lane) {
  const uint32_t upper = counts[63 - 2 * lane];
  const uint32_t lower = counts[62 - 2 * lane];
  uint32_t sum = upper + lower;
  for (uint32_t step = 1; step < 32; step *= 2) {
    const uint32_t other = __shfl_up_sync(~0U, sum, step);
    if (lane >= step) sum += other;
  }
  const uint32_t reached = __ballot_sync(~0U, sum >= needed);
  const int source = __ffs(static_cast<int>(reached)) - 1;
  const uint32_t before = sum - upper - lower;
  const bool in_upper = before + upper >= needed;
  const uint32_t index = 63 - 2 * lane - (in_upper ? 0 : 1);
  const uint32_t above = in_upper ? before : before + upper;
  const uint32_t count = in_upper ? upper : lower;
  return {__shfl_sync(~0U, index, source), __shfl_sync(~0U, above, source), __shfl_sync(~0U, count, source)};
}

template <int kThreads>
class TopkSelect {
 public:
  static constexpr int kWarps = kThreads / 32;

  __device__ TopkSelect(const SelectScratch& scratch, uint32_t cluster, uint32_t rank)
      : scratch_(scratch), cluster_(cluster), rank_(rank), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32) {}

  /// Before the first pass, by all threads; the caller then synchronizes before it counts.
  __device__ void clear_first() const { clear(scratch_.histogram[0], pass_bins(0)); }
  __device__ void count_first(uint32_t key) const {
    atomicAdd(&scratch_.histogram[0][key >> pass_shift(0)], 1U);
  }

  /// `keys` [n] of this block, counted already, of `total` (more than topk) in the cluster. False, and
  /// nothing is written: a NaN was met by a block.
  __device__ bool select(const uint32_t* keys, int n, int first_position, uint32_t total, uint32_t topk,
                         bool met_nan, const SelectedRow& out) {
    clear(scratch_.histogram[1], pass_bins(1));
    Window window = whole_range(topk, total);
    if (narrow<0>(window, met_nan)) return false;
    list_survivors(keys, n, window);
    if (!window.settled()) {
      narrow<1>(window, false);
      if (!window.settled()) {
        // No block reads the first histogram any more: all have met in the second pass.
        clear(scratch_.histogram[0], pass_bins(2));
        __syncthreads();
        for (uint32_t i = lane_; i < num_survivors_; i += 32) {
          const uint32_t key = keys[survivors_[i]];
          if (window.holds(key)) atomicAdd(&scratch_.histogram[0][key - window.low], 1U);
        }
        narrow<2>(window, false);
      }
    }
    write(keys, first_position, window, out);
    return true;
  }

 private:
  __device__ static void clear(uint32_t* histogram, uint32_t bins) {
    for (uint32_t i = threadIdx.x; i < bins / 4; i += kThreads) {
      reinterpret_cast<uint4*>(histogram)[i] = make_uint4(0, 0, 0, 0);
    }
  }

  /// sums[b] = the sum over the cluster of counts[b], for 64 counts. By the whole block, which it
  /// synchronizes.
  __device__ void sum_over_cluster(const uint32_t* counts, uint32_t* sums) const {
    constexpr uint32_t kParts = kThreads / 64;
    const uint32_t b = threadIdx.x / kParts;
    const uint32_t part = threadIdx.x % kParts;
    uint32_t sum = 0;
    for (uint32_t rank = part; rank < cluster_; rank += kParts) sum += load_remote(counts + b, rank);
    for (uint32_t step = kParts / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
    if (part == 0) sums[b] = sum;
  }

  /// The window becomes the bin of pass kPass that holds the k-th key. True: a NaN was met (first pass only).
  template <int kPass>
  __device__ bool narrow(Window& window, bool met_nan) {
    uint32_t* histogram = scratch_.histogram[kPass % 2];
    uint32_t* groups = scratch_.groups(parity_);
    parity_ ^= 1;
    bool nan = __syncthreads_or(met_nan);
    // 64 sums of 64 bins.
    constexpr uint32_t kBins = kMostBins / kThreads;
    constexpr uint32_t kLanes = kBinGroup / kBins;
    uint32_t sum = 0;
    if (threadIdx.x * kBins < pass_bins(kPass)) {
      for (uint32_t i = 0; i < kBins; i += 4) {
        const uint4 four = *reinterpret_cast<const uint4*>(histogram + threadIdx.x * kBins + i);
        sum += four.x + four.y + four.z + four.w;
      }
    }
    for (uint32_t step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
    if (threadIdx.x % kLanes == 0) groups[threadIdx.x / kLanes] = sum;
    if (kPass == 0 && threadIdx.x == 0) groups[64] = nan ? 1 : 0;

    const uint32_t* totals = groups;
    if (cluster_ > 1) {
      cluster_barrier();
      sum_over_cluster(groups, scratch_.group_sums());
      if (kPass == 0) {
        const bool theirs = threadIdx.x < cluster_ && load_remote(groups + 64, threadIdx.x) != 0;
        nan = __syncthreads_or(theirs);
      } else {
        __syncthreads();
      }
      totals = scratch_.group_sums();
    } else {
      __syncthreads();
    }
    if (nan) {
      if (cluster_ > 1) cluster_barrier();  // a block may leave once no other reads its words
      return true;
    }
    const Crossing group = find_crossing(totals, window.needed, lane_);
    const uint32_t* bins = histogram + group.index * kBinGroup;
    if (cluster_ > 1) {
      sum_over_cluster(bins, scratch_.bin_sums());
      __syncthreads();
      bins = scratch_.bin_sums();
    }
    window.needed -= group.above;
    const Crossing bin = find_crossing(bins, window.needed, lane_);
    window = narrowed(window, pass_shift(kPass), group.index * kBinGroup + bin.index, bin);
    return false;
  }

  /// Each warp's share of the block's keys: the positions of those in or above the window, ascending; the
  /// keys in it are counted for the second pass.
  __device__ void list_survivors(const uint32_t* keys, int n, const Window& window) {
    const int share = (n + kThreads - 1) / kThreads * 32;
    const int begin = static_cast<int>(warp_) * share;
    const int end = min(begin + share, n);
    survivors_ = scratch_.survivors + begin;
    num_survivors_ = 0;
#pragma unroll 4
    for (int first = begin; first < end; first += 32) {
      const int i = first + static_cast<int>(lane_);
      const uint32_t key = i < end ? keys[i] : kAbsentKey;
      const bool keep = key >= window.low;
      const uint32_t kept = __ballot_sync(~0U, keep);
      if (keep) {
        survivors_[num_survivors_ + __popc(kept & lanes_below(lane_))] = static_cast<uint16_t>(i);
        if (window.holds(key)) {
          atomicAdd(&scratch_.histogram[1][(key - window.low) >> pass_shift(1)], 1U);
        }
      }
      num_survivors_ += __popc(kept);
    }
    __syncwarp();
  }

  __device__ void write(const uint32_t* keys, int first_position, const Window& window,
                        const SelectedRow& out) const {
    uint32_t above = 0;
    uint32_t inside = 0;
    for (uint32_t first = 0; first < num_survivors_; first += 32) {
      const uint32_t i = first + lane_;
      const uint32_t key = i < num_survivors_ ? keys[survivors_[i]] : kAbsentKey;
      above += __popc(__ballot_sync(~0U, window.beaten_by(key)));
      inside += __popc(__ballot_sync(~0U, key != kAbsentKey && window.holds(key)));
    }
    const Before before = count_before(above, inside);
    uint32_t above_rank = before.above;
    uint32_t inside_rank = before.inside;
    for (uint32_t first = 0; first < num_survivors_; first += 32) {
      const uint32_t i = first + lane_;
      const uint32_t place = i < num_survivors_ ? survivors_[i] : 0;
      const uint32_t key = i < num_survivors_ ? keys[place] : kAbsentKey;
      const bool is_above = window.beaten_by(key);
      const bool is_inside = key != kAbsentKey && window.holds(key);
      const uint32_t all_above = __ballot_sync(~0U, is_above);
      const uint32_t all_inside = __ballot_sync(~0U, is_inside);
      const uint32_t my_above = above_rank + __popc(all_above & lanes_below(lane_));
      const uint32_t my_inside = inside_rank + __popc(all_inside & lanes_below(lane_));
      if (is_above || (is_inside && my_inside < window.needed)) {
        const uint32_t to = my_above + min(my_inside, window.needed);
        out.positions[to] = first_position + static_cast<int32_t>(place);
        if (out.slots != nullptr) {
          out.slots[to] = out.slice_pages[place / 64] * 64 + static_cast<int32_t>(place % 64);
        }
      }
      above_rank += __popc(all_above);
      inside_rank += __popc(all_inside);
    }
  }

  struct Before {
    uint32_t above;
    uint32_t inside;
  };
  /// The counts of all warps and blocks before this warp.
  __device__ Before count_before(uint32_t above, uint32_t inside) const {
    uint32_t* counts = scratch_.warp_counts();
    if (lane_ == 0) {
      counts[2 * warp_] = above;
      counts[2 * warp_ + 1] = inside;
    }
    __syncthreads();
    uint32_t warp_above = lane_ < kWarps ? counts[2 * lane_] : 0;
    uint32_t warp_inside = lane_ < kWarps ? counts[2 * lane_ + 1] : 0;
    Before before{__reduce_add_sync(~0U, lane_ < warp_ ? warp_above : 0),
                  __reduce_add_sync(~0U, lane_ < warp_ ? warp_inside : 0)};
    if (cluster_ > 1) {
      uint32_t* blocks = scratch_.block_counts();
      if (warp_ == 0) {
        const uint32_t block_above = __reduce_add_sync(~0U, warp_above);
        const uint32_t block_inside = __reduce_add_sync(~0U, warp_inside);
        if (lane_ < cluster_) {
          store_remote(blocks + 2 * rank_, lane_, block_above);
          store_remote(blocks + 2 * rank_ + 1, lane_, block_inside);
        }
      }
      // After this no block touches another's shared memory: each may leave.
      cluster_barrier();
      before.above += __reduce_add_sync(~0U, lane_ < rank_ ? blocks[2 * lane_] : 0);
      before.inside += __reduce_add_sync(~0U, lane_ < rank_ ? blocks[2 * lane_ + 1] : 0);
    }
    return before;
  }

  SelectScratch scratch_;
  uint32_t cluster_;
  uint32_t rank_;
  uint32_t lane_;
  uint32_t warp_;
  int parity_ = 0;
  uint16_t* survivors_ = nullptr;
  uint32_t num_survivors_ = 0;
};

/// A row that may read all it has: positions 0 to length - 1, then -1; `length` 0 fills it with -1.
template <int kThreads>
__device__ void write_all(int length, uint32_t topk, const int32_t* page_table, int32_t* positions,
                          int32_t* slots) {
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(topk); i += kThreads) {
    positions[i] = i < length ? i : -1;
    if (slots != nullptr) slots[i] = i < length ? page_table[i / 64] * 64 + i % 64 : -1;
  }
}

}  // namespace fulgur::cuda
