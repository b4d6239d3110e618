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
// compare), then over the survivors, about topk in all. A cluster exchanges counts twice a pass and once for
// the output.

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/radix_window.h"

namespace fulgur::cuda {

constexpr int kMostCluster = 16;

/// A block's shared memory for a selection.
struct SelectScratch {
  uint32_t* first_histogram;   // [4096]
  uint32_t* second_histogram;  // [2048]
  uint16_t* survivors;         // [slice]
  uint32_t* small;             // [words(cluster)], 16-byte aligned

  static constexpr int kOwnWords = 3 * kBinGroup + 2 * 32 + 8;
  static constexpr int words(int cluster) {
    return kOwnWords + cluster * static_cast<int>(2 * kBinGroup + 4);
  }
  __device__ uint32_t* groups() const { return small; }                       // [64] of this block
  __device__ uint32_t* group_sums() const { return small + kBinGroup; }       // [64] of the cluster
  __device__ uint32_t* bin_sums() const { return small + 2 * kBinGroup; }     // [64] of the cluster
  __device__ uint32_t* warp_counts() const { return small + 3 * kBinGroup; }  // [32][2]
  __device__ uint64_t* barriers() const { return reinterpret_cast<uint64_t*>(warp_counts() + 64); }  // [3]
  // What the cluster's blocks send, by rank.
  __device__ uint32_t* group_inbox() const { return small + kOwnWords; }  // [cluster][64]
  __device__ uint32_t* bin_inbox(uint32_t cluster) const { return group_inbox() + cluster * kBinGroup; }
  __device__ uint32_t* count_inbox(uint32_t cluster) const {  // [cluster][2]
    return bin_inbox(cluster) + cluster * kBinGroup;
  }
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

  /// First of all, by all threads.
  __device__ void open() const {
    if (cluster_ == 1) return;
    if (threadIdx.x == 0) {
      for (int i = 0; i < 3; ++i) mbarrier_init(scratch_.barriers() + i, 1);
      fence_mbarrier_init();
    }
    __syncthreads();
    cluster_arrive();
  }
  /// By all threads, before select() and before they leave.
  __device__ void await_cluster() const {
    if (cluster_ > 1) cluster_wait();
  }

  /// Before the first pass, by all threads; the caller then synchronizes before it counts.
  __device__ void clear_first() const { clear(scratch_.first_histogram, pass_bins(0)); }
  __device__ void count_first(uint32_t key) const {
    atomicAdd(&scratch_.first_histogram[key >> pass_shift(0)], 1U);
  }

  /// `keys` [n] of this block, counted already, of `total` (more than topk) in the cluster. False, and
  /// nothing is written: a NaN was met by a block.
  __device__ bool select(const uint32_t* keys, int n, int first_position, uint32_t total, uint32_t topk,
                         bool met_nan, const SelectedRow& out) {
    clear(scratch_.second_histogram, pass_bins(1));
    Window window = whole_range(topk, total);
    // One copy of the code: what runs once a launch waits for its instructions.
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      if (pass == 2) count_again(keys, window);
      if (narrow(pass, window, met_nan)) {
        if (cluster_ > 1) exchange_counts(make_uint2(0, 0));  // all are done with what was sent
        return false;
      }
      if (pass == 0) list_survivors(keys, n, window);
      if (window.settled()) break;
    }
    write(keys, first_position, window, out);
    return true;
  }

 private:
  __device__ static void clear(uint32_t* histogram, uint32_t bins) {
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < bins / 4; i += kThreads) {
      reinterpret_cast<uint4*>(histogram)[i] = make_uint4(0, 0, 0, 0);
    }
  }

  /// sums[b] = the sum over the cluster of counts[b], for 64 counts below 2^31, and whether a count of any
  /// block has the top bit. By the whole block, which it synchronizes.
  __device__ bool sum_over_cluster(const uint32_t* counts, uint32_t* inbox, uint64_t* barrier, uint32_t phase,
                                   uint32_t* sums) const {
    if (threadIdx.x == 0) mbarrier_expect(barrier, cluster_ * kBinGroup * 4);
    if (threadIdx.x < cluster_ * (kBinGroup / 4)) {
      const uint32_t vector = threadIdx.x % (kBinGroup / 4);
      send(inbox + rank_ * kBinGroup + vector * 4, barrier, threadIdx.x / (kBinGroup / 4),
           *reinterpret_cast<const uint4*>(counts + vector * 4));
    }
    mbarrier_wait_cluster(barrier, phase);
    constexpr uint32_t kParts = kThreads / kBinGroup;
    constexpr uint32_t kTop = 0x80000000;
    const uint32_t b = threadIdx.x / kParts;
    uint32_t sum = 0;
    uint32_t tops = 0;
    for (uint32_t rank = threadIdx.x % kParts; rank < cluster_; rank += kParts) {
      const uint32_t count = inbox[rank * kBinGroup + b];
      tops |= count;
      sum += count & ~kTop;
    }
    for (uint32_t step = kParts / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
    if (threadIdx.x % kParts == 0) sums[b] = sum;
    return __syncthreads_or((tops & kTop) != 0);
  }

  /// The window becomes the bin of this pass that holds the k-th key, by the counts of this block or of all.
  /// True: a NaN was met.
  __device__ bool narrow(int pass, Window& window, bool met_nan) {
    uint32_t* histogram = pass == 1 ? scratch_.second_histogram : scratch_.first_histogram;
    uint32_t* groups = scratch_.groups();
    bool nan = __syncthreads_or(met_nan);
    // 64 sums of 64 bins, 16 lanes each.
    constexpr int kVectors = static_cast<int>(kMostBins) / 4 / kThreads;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const uint32_t vector = threadIdx.x + i * kThreads;
      uint32_t sum = 0;
      if (vector * 4 < pass_bins(pass)) {
        const uint4 four = reinterpret_cast<const uint4*>(histogram)[vector];
        sum = four.x + four.y + four.z + four.w;
      }
      for (uint32_t step = kBinGroup / 8; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
      if (vector % (kBinGroup / 4) == 0) {
        groups[vector / (kBinGroup / 4)] = sum | (nan && vector == 0 ? 0x80000000 : 0);
      }
    }
    __syncthreads();
    const uint32_t* totals = groups;
    if (cluster_ > 1) {
      nan = sum_over_cluster(groups, scratch_.group_inbox(), scratch_.barriers(), group_phase_,
                             scratch_.group_sums());
      group_phase_ ^= 1;
      totals = scratch_.group_sums();
    }
    if (nan) return true;
    const Crossing group = find_crossing(totals, window.needed, lane_);
    const uint32_t* bins = histogram + group.index * kBinGroup;
    if (cluster_ > 1) {
      sum_over_cluster(bins, scratch_.bin_inbox(cluster_), scratch_.barriers() + 1, bin_phase_,
                       scratch_.bin_sums());
      bin_phase_ ^= 1;
      bins = scratch_.bin_sums();
    }
    window.needed -= group.above;
    const Crossing bin = find_crossing(bins, window.needed, lane_);
    window = narrowed(window, pass_shift(pass), group.index * kBinGroup + bin.index, bin);
    return false;
  }

  /// Counts the listed keys in the window by their last bits.
  __device__ void count_again(const uint32_t* keys, const Window& window) const {
    clear(scratch_.first_histogram, pass_bins(2));
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = lane_; i < num_survivors_; i += 32) {
      const uint32_t key = keys[survivors_[i]];
      if (window.holds(key)) atomicAdd(&scratch_.first_histogram[key - window.low], 1U);
    }
  }

  /// Each warp's share of the block's keys: the positions of those in or above the window, ascending; the
  /// keys in it are counted for the second pass.
  __device__ void list_survivors(const uint32_t* keys, int n, const Window& window) {
    const int share = (n + kThreads - 1) / kThreads * 32;
    const int begin = static_cast<int>(warp_) * share;
    const int end = min(begin + share, n);
    survivors_ = scratch_.survivors + begin;
    num_survivors_ = 0;
    constexpr int kSteps = 4;  // reads that don't wait for each other
#pragma unroll 1
    for (int first = begin; first < end; first += 32 * kSteps) {
      uint32_t key[kSteps];
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int i = first + step * 32 + static_cast<int>(lane_);
        key[step] = i < end ? keys[i] : kAbsentKey;
      }
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const bool keep = key[step] >= window.low;
        const uint32_t kept = __ballot_sync(~0U, keep);
        if (kept == 0) continue;
        if (keep) {
          survivors_[num_survivors_ + __popc(kept & lanes_below(lane_))] =
              static_cast<uint16_t>(first + step * 32 + static_cast<int>(lane_));
          if (window.holds(key[step])) {
            atomicAdd(&scratch_.second_histogram[(key[step] - window.low) >> pass_shift(1)], 1U);
          }
        }
        num_survivors_ += __popc(kept);
      }
    }
    __syncwarp();
  }

  __device__ void write(const uint32_t* keys, int first_position, const Window& window,
                        const SelectedRow& out) {
    uint32_t above = 0;
    uint32_t inside = 0;
#pragma unroll 1
    for (uint32_t i = lane_; i < num_survivors_; i += 32) {
      const uint32_t key = keys[survivors_[i]];
      above += window.beaten_by(key) ? 1 : 0;
      inside += window.holds(key) ? 1 : 0;
    }
    const Before before = count_before(__reduce_add_sync(~0U, above), __reduce_add_sync(~0U, inside));
    uint32_t above_rank = before.above;
    uint32_t inside_rank = before.inside;
#pragma unroll 1
    for (uint32_t first = 0; first < num_survivors_; first += 32) {
      const uint32_t i = first + lane_;
      const bool here = i < num_survivors_;
      const uint32_t place = here ? survivors_[i] : 0;
      const uint32_t key = keys[place];
      const bool is_inside = here && window.holds(key);
      const bool is_above = here && window.beaten_by(key);
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
  __device__ Before count_before(uint32_t above, uint32_t inside) {
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
      exchange_counts(make_uint2(__reduce_add_sync(~0U, warp_above), __reduce_add_sync(~0U, warp_inside)));
      const uint32_t* blocks = scratch_.count_inbox(cluster_);
      before.above += __reduce_add_sync(~0U, lane_ < rank_ ? blocks[2 * lane_] : 0);
      before.inside += __reduce_add_sync(~0U, lane_ < rank_ ? blocks[2 * lane_ + 1] : 0);
    }
    return before;
  }
  /// Every block gets the counts of all. After this none sends another anything more for this row.
  __device__ void exchange_counts(uint2 counts) {
    uint64_t* barrier = scratch_.barriers() + 2;
    if (warp_ == 0) {
      if (lane_ == 0) mbarrier_expect(barrier, cluster_ * 8);
      if (lane_ < cluster_) send(scratch_.count_inbox(cluster_) + 2 * rank_, barrier, lane_, counts);
    }
    mbarrier_wait_cluster(barrier, count_phase_);
    count_phase_ ^= 1;
  }

  SelectScratch scratch_;
  uint32_t cluster_;
  uint32_t rank_;
  uint32_t lane_;
  uint32_t warp_;
  uint32_t group_phase_ = 0;
  uint32_t bin_phase_ = 0;
  uint32_t count_phase_ = 0;
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
