#pragma once

// The exact top-k of the keys that a block, or a cluster of blocks, holds in shared memory, each a contiguous
// slice of the positions, in the order of their ranks.
//
// The keys were counted by their first 12 bits while they were made. The first pass (radix_window.h) finds
// the bin of the k-th from these counts. Each warp then lists its keys of the bin or above (topk_list.cuh).
// The bin's keys are copied out, over a cluster sent to all blocks, and every block narrows the window among
// them alone. Where they are too many for that (concentrated scores, ties, of one block's those of ascending
// ones) a second pass counts all keys of the bin by further bits before they are listed, and where they still
// are (ties), a third by the last. Of equal keys the lower positions are taken, and positions come out
// ascending. Counts are integers: the order in which atomics add them does not matter, nor does the order of
// the copied keys, of which only counts are taken.
//
// Cost a block: one pass over n keys while they are made (an atomic each), one over n keys (a load, a
// compare, a vote), then over those listed, about topk in all; over a cluster two exchanges
// (topk_exchange.cuh). Concentrated scores: one more pass and exchange; ties: two, and the output's over n
// keys in place of the list's. What it needs cleared is cleared before the keys are there.

#include <type_traits>

#include "kernels/cuda/topk_list.cuh"

namespace fulgur::cuda {

/// kSmallShares: see TopkList.
template <int kThreads, bool kSmallShares>
class TopkSelect {
  static constexpr int kWarps = kThreads / 32;

 public:
  __device__ TopkSelect(const SelectScratch& scratch, uint32_t rank)
      : scratch_(scratch),
        cluster_(scratch.cluster),
        rank_(rank),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32),
        list_(scratch) {}

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

  /// From now on the block's rows are its own alone.
  __device__ void leave_cluster() {
    cluster_ = 1;
    rank_ = 0;
    too_many_to_send_ = false;
    list_.leave_cluster();
  }

  /// Before a row's keys are counted, by all threads; the caller then synchronizes.
  __device__ void clear() const {
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < SelectWords::kCleared / 4; i += kThreads) {
      reinterpret_cast<uint4*>(scratch_.words)[i] = make_uint4(0, 0, 0, 0);
    }
  }
  /// Of each key, by whoever makes it; the block then synchronizes.
  __device__ void count_first(uint32_t key) const { count(0, key >> pass_shift(0)); }

  /// `keys` [n] of this block, counted already, of `total` (more than topk; at most 65,535 a block) in the
  /// cluster. False, and nothing is written: a key is that of a NaN.
  __device__ bool select(const uint32_t* keys, int n, int first_position, uint32_t total, uint32_t topk,
                         const SelectedRow& out) {
    // Where this block alone would look for its share of the k-th.
    const auto guess = static_cast<uint32_t>(static_cast<float>(n) *
                                             __fdividef(static_cast<float>(topk), static_cast<float>(total)));
    const bool nan = scratch_.histogram(0)[pass_bins(0) - 1] != 0;
    lower_ = {0, 0};
    Window window = whole_range(topk, total);
    if (narrow<0>(window, nan, guess)) return false;
    // Measured: long rows' listing takes longer if it stands in a branch or behind the further passes.
    for (bool first = true;; first = false) {
      const bool crowded = is_crowded(window);
      list_.take(keys, n, window, crowded,
                 crowded || window.settled() ? nullptr : scratch_.candidates() + lower_.inside);
      if (!crowded) {
        if (!window.settled()) narrow_by_candidates(window);
        break;
      }
      if (!first) {
        narrow_among_all<2>(keys, n, window);
        break;
      }
      narrow_among_all<1>(keys, n, window);
    }
    list_.write(keys, first_position, window, lower_, out);
    return true;
  }

 private:
  /// Its keys are too many to be candidates.
  [[nodiscard]] __device__ bool is_crowded(const Window& window) const {
    return !window.settled() && (window.count > kMostCandidates || too_many_to_send_);
  }
  __device__ void count(int pass, uint32_t bin) const {
    atomicAdd(scratch_.histogram(pass) + bin, 1U);
    if (cluster_ > 1) atomicAdd(scratch_.groups(pass) + bin / kBinGroup, 1U);
  }

  /// The window becomes the bin of this pass that holds the k-th key, by the counts of this block or of all.
  /// The block synchronized after counting. True: a NaN was met.
  template <int kPass>
  __device__ bool narrow(Window& window, bool nan, uint32_t own_needed) {
    if (cluster_ > 1) return narrow_over_cluster<kPass>(window, nan, own_needed);
    if (nan) return true;
    const Crossing bin = crossing_in_block<kPass>(window.needed);
    window = narrowed(window, pass_shift(kPass), bin.index, bin);
    return false;
  }

  /// By the whole block, which is synchronized.
  template <int kPass>
  __device__ Crossing crossing_in_block(uint32_t needed) const {
    constexpr int kBins = static_cast<int>(pass_bins(kPass));
    constexpr int kEach = kBins > kThreads ? kBins / kThreads : 1;
    constexpr int kVector = kEach < 4 ? kEach : 4;
    using Vector = std::conditional_t<kVector == 4, uint4, std::conditional_t<kVector == 2, uint2, uint32_t>>;
    // From the last bins down.
    const uint32_t first = kBins - kEach * (threadIdx.x + 1);
    alignas(16) uint32_t counts[kEach] = {};
    if (threadIdx.x < kBins / kEach) {
      const auto* own = reinterpret_cast<const Vector*>(scratch_.histogram(kPass) + first);
#pragma unroll
      for (int i = 0; i < kEach / kVector; ++i) reinterpret_cast<Vector*>(counts)[i] = own[i];
    }
    uint32_t own_sum = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) own_sum += counts[i];
    const uint32_t sum = sum_of_lanes_up_to(own_sum);
    if (lane_ == 31) scratch_.warp_sums()[warp_] = sum;
    __syncthreads();
    const uint32_t of_warp = lane_ < warp_ ? scratch_.warp_sums()[lane_] : 0;
    uint32_t above = __reduce_add_sync(~0U, of_warp) + sum - own_sum;
    uint32_t* found = scratch_.found();
    if (above < needed && needed <= above + own_sum) {
#pragma unroll
      for (int i = kEach - 1; i >= 0; --i) {
        if (above < needed && needed <= above + counts[i]) {
          found[0] = first + i;
          found[1] = above;
          found[2] = counts[i];
        }
        above += counts[i];
      }
    }
    __syncthreads();
    return {found[0], found[1], found[2]};
  }

  template <int kPass>
  __device__ bool narrow_over_cluster(Window& window, bool nan, uint32_t own_needed) {
    const uint32_t* groups = scratch_.groups(kPass);
    // Any group would be right, the best saves an exchange.
    const TwoCounts own = two_counts(groups, lane_);
    const uint32_t sum = running_sum(own);
    uint32_t guess = crossing_of(own, sum, max(own_needed, 1U), lane_).index;
    guess = min(guess, pass_bins(kPass) / kBinGroup - 1);
    uint32_t ranks = (1U << cluster_) - 1;  // whose bins are summed
    bool sends = true;
    while (true) {
      if (sends) {
        const uint32_t turn = turn_ & 1;
        send_counts<kThreads>(groups, scratch_.histogram(kPass) + guess * kBinGroup,
                              guess | (nan ? CountMessage::kNan : 0), scratch_.messages(turn),
                              scratch_.barriers() + turn, cluster_, rank_);
        mbarrier_wait_cluster(scratch_.barriers() + turn, turn_ >> 1 & 1);
        ++turn_;
      }
      const uint32_t* messages = scratch_.messages((turn_ - 1) & 1);
      if (warp_ < 4) sum_messages(messages, cluster_, ranks, rank_, warp_, lane_, scratch_.sums());
      __syncthreads();
      const Found found = find_bin(messages, scratch_.sums(), cluster_, ranks, window.needed, lane_);
      if (found.nan) return true;
      if (!found.guessed_right) {
        guess = found.group;
        ranks = ranks_that_told(messages, cluster_, guess, lane_);
        sends = ranks == 0;
        if (sends) ranks = (1U << cluster_) - 1;
        __syncthreads();  // all are done with the sums
        continue;
      }
      window = narrowed(window, pass_shift(kPass), found.bin.index, found.bin);
      lower_.above += found.lower_above;
      lower_.inside = found.lower_inside;
      too_many_to_send_ = window.count * cluster_ > kMostSent &&
                          most_in_bin(messages, ranks, found.bin.index, lane_) * cluster_ > kMostSent;
      return false;
    }
  }

  /// Counts the window's keys by their next bits and narrows it. The keys go to threads as they come, not by
  /// shares: those of a window may lie side by side.
  template <int kPass>
  __device__ void narrow_among_all(const uint32_t* keys, int n, Window& window) {
    const KeyRange range(window);
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      const uint32_t key = keys[i];
      if (range.holds(key)) count(kPass, (key - range.first) >> pass_shift(kPass));
    }
    __syncthreads();
    const TwoCounts own = two_counts(scratch_.groups(kPass), lane_);
    const auto in_window = static_cast<float>(__reduce_add_sync(~0U, own.lower + own.upper));
    const float share = __fdividef(static_cast<float>(window.needed), static_cast<float>(window.count));
    narrow<kPass>(window, false, static_cast<uint32_t>(in_window * share));
  }

  /// The window becomes settled, by its few keys, which every block gets to see. Afterwards none sends
  /// another anything more for this row.
  __device__ void narrow_by_candidates(Window& window) {
    if (cluster_ > 1) {
      mbarrier_wait_cluster(scratch_.barriers() + 2, candidate_phase_);
      candidate_phase_ ^= 1;
    } else {
      __syncthreads();
    }
    const uint32_t count = window.count;
    if (window.bits > pass_shift(1)) count_candidates<1>(count, window);
    if (!window.settled()) count_candidates<2>(count, window);
    if (cluster_ == 1) return;
    const KeyRange range(window);
#pragma unroll 1
    for (uint32_t first = warp_ * 32; first < lower_.inside; first += kThreads) {
      const uint32_t key = first + lane_ < lower_.inside ? scratch_.candidates()[first + lane_] : kAbsentKey;
      const uint32_t above = __popc(__ballot_sync(~0U, key > range.last));
      const uint32_t from = __popc(__ballot_sync(~0U, key >= range.first));
      if (lane_ < 2) atomicAdd(scratch_.lower() + lane_, lane_ == 0 ? above : from - above);
    }
    lower_.inside = 0;
  }

  template <int kPass>
  __device__ void count_candidates(uint32_t count, Window& window) const {
    const KeyRange range(window);
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < count; i += kThreads) {
      const uint32_t key = scratch_.candidates()[i];
      if (range.holds(key)) {
        atomicAdd(scratch_.histogram(kPass) + ((key - range.first) >> pass_shift(kPass)), 1U);
      }
    }
    __syncthreads();
    const Crossing bin = crossing_in_block<kPass>(window.needed);
    window = narrowed(window, pass_shift(kPass), bin.index, bin);
  }

  SelectScratch scratch_;
  uint32_t cluster_;
  uint32_t rank_;
  uint32_t lane_;
  uint32_t warp_;
  TopkList<kThreads, kSmallShares> list_;
  uint32_t turn_ = 0;             // of the counts' exchange
  uint32_t candidate_phase_ = 0;  // of the candidates'
  LowerRanks lower_{0, 0};
  bool too_many_to_send_ = false;  // the window's keys, by one block
};

}  // namespace fulgur::cuda
