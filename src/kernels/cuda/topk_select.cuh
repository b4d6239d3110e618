#pragma once

// The exact top-k of the keys that a block, or a cluster of blocks, holds in shared memory, each a contiguous
// slice of the positions, in the order of their ranks.
//
// The keys were counted by their first 12 bits while they were made. The first pass (radix_window.h) finds
// the bin of the k-th from these counts; each warp then lists the places of its share of the keys that lie in
// it or above. The bin's keys, if they are few, are copied out, over a cluster sent to all blocks, and every
// block narrows the window among them alone. Where they are many (concentrated scores, ties) further passes
// count the listed keys again and join their counts as the first. Output places are prefix counts in position
// order: within a warp by ballots, over warps and blocks by sums of counts. So of equal keys the lower
// positions are taken, and positions come out ascending. Counts are integers: the order in which atomics add
// them does not matter, nor does the order of the copied keys, of which only counts are taken.
//
// Cost a block: one pass over n keys while they are made (an atomic each), one over n keys (a load, a
// compare, a vote), then over those listed, about topk in all; over a cluster two exchanges
// (topk_exchange.cuh). What it needs cleared is cleared before the keys are there.

#include <type_traits>

#include "kernels/cuda/ordered_keys.cuh"
#include "kernels/cuda/selected_row.cuh"
#include "kernels/cuda/topk_exchange.cuh"

namespace fulgur::cuda {

/// kSmallShares: a warp's share of the keys is a few vectors of 32 at times, for which it has code of its own
/// (which costs the kernels for long rows 6%).
template <int kThreads, bool kSmallShares>
class TopkSelect {
 public:
  static constexpr int kWarps = kThreads / 32;
  static constexpr uint32_t kListed = SelectScratch::listed_places(kWarps);

  __device__ TopkSelect(const SelectScratch& scratch, uint32_t rank)
      : scratch_(scratch),
        cluster_(scratch.cluster),
        rank_(rank),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32) {}

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

  /// Before a row's keys are counted, by all threads; the caller then synchronizes.
  __device__ void clear() const {
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < SelectScratch::kCleared / 4; i += kThreads) {
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
    lower_above_ = 0;
    Window window = whole_range(topk, total);
    if (narrow<0>(window, nan, guess)) return false;
    const bool settled = window.settled();
    const bool few = window.count <= kMostCandidates;
    list_survivors(keys, n, window, !settled && few);
    if (!settled) {
      if (few) {
        narrow_by_candidates(window);
      } else {
        narrow_again<1>(keys, window);
        if (!window.settled()) narrow_again<2>(keys, window);
      }
    }
    write(keys, first_position, window, out);
    return true;
  }

 private:
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
    // A group that holds keys; any would be right, the best saves an exchange.
    const TwoCounts own = two_counts(groups, lane_);
    const uint32_t sum = running_sum(own);
    uint32_t guess = crossing_of(own, sum, max(own_needed, 1U), lane_).index;
    guess = min(guess, pass_bins(kPass) / kBinGroup - 1);
    while (true) {
      const uint32_t turn = turn_ & 1;
      uint64_t* barrier = scratch_.barriers() + turn;
      const uint32_t* messages = scratch_.messages(turn);
      send_counts<kThreads>(groups, scratch_.histogram(kPass) + guess * kBinGroup,
                            guess | (nan ? CountMessage::kNan : 0), scratch_.messages(turn), barrier,
                            cluster_, rank_);
      mbarrier_wait_cluster(barrier, turn_ >> 1 & 1);
      if (warp_ < 4) sum_messages(messages, cluster_, rank_, warp_, lane_, scratch_.sums());
      __syncthreads();
      ++turn_;
      const Found found = find_bin(messages, scratch_.sums(), cluster_, window.needed, lane_);
      if (found.nan) return true;
      if (!found.guessed_right) {
        guess = found.group;
        __syncthreads();  // all are done with the sums
        continue;
      }
      window = narrowed(window, pass_shift(kPass), found.bin.index, found.bin);
      lower_above_ += found.lower_above;
      lower_inside_ = found.lower_inside;
      return false;
    }
  }

  /// Each warp's share of the block's keys: the places of those in or above the window, ascending, if they
  /// have room; else, and where it has a key a lane, all its keys are taken for listed. Copies the keys of
  /// the window if they are to be candidates.
  __device__ void list_survivors(const uint32_t* keys, int n, const Window& window, bool candidates) {
    if (candidates && cluster_ > 1 && threadIdx.x == 0)
      mbarrier_expect(scratch_.barriers() + 2, window.count * 4);
    // Instructions in a row are what takes the time: one round without idle steps, if the share is small.
    const int each = (n + kThreads - 1) / kThreads;
    if (kSmallShares && each == 1) {
      list_share<1>(keys, n, each * 32, window, candidates);
    } else if (kSmallShares && each == 2) {
      list_share<2>(keys, n, each * 32, window, candidates);
    } else if (kSmallShares && (each == 5 || each == 6)) {
      list_share<6>(keys, n, each * 32, window, candidates);
    } else {
      list_share<4>(keys, n, each * 32, window, candidates);
    }
  }
  /// The same, kSteps of 32 keys at a time that don't wait for each other.
  template <int kSteps>
  __device__ void list_share(const uint32_t* keys, int n, int share, const Window& window, bool candidates) {
    share_begin_ = static_cast<int>(warp_) * share;
    const int end = min(share_begin_ + share, n);
    uint16_t* listed = scratch_.listed(warp_, kWarps);
    const bool lists = share > 32;
    const KeyRange range(window);
    uint32_t count = 0;
#pragma unroll 1
    for (int first = share_begin_; first < end; first += 32 * kSteps) {
      uint32_t key[kSteps];
      bool any_inside = false;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const int place = first + step * 32 + static_cast<int>(lane_);
        key[step] = place < end ? keys[place] : kAbsentKey;
        any_inside = any_inside || range.holds(key[step]);
      }
      if (lists) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const bool keep = key[step] >= range.first;
          const uint32_t kept = __ballot_sync(~0U, keep);
          const uint32_t to = count + __popc(kept & lanes_below(lane_));
          if (keep && to < kListed) {
            listed[to] = static_cast<uint16_t>(first + step * 32 + static_cast<int>(lane_));
          }
          count += __popc(kept);
        }
      }
      if (candidates && __any_sync(~0U, any_inside)) copy_candidates(key, range);
    }
    is_listed_ = lists && count <= kListed;
    num_listed_ = is_listed_ ? count : static_cast<uint32_t>(max(end - share_begin_, 0));
    __syncwarp();
  }
  /// Those of the keys in the range to the list of candidates, over a cluster to the lists of all blocks. By
  /// a warp.
  template <int kSteps>
  __device__ void copy_candidates(const uint32_t (&key)[kSteps], const KeyRange& range) const {
    uint32_t inside[kSteps];
    uint32_t count = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      inside[step] = __ballot_sync(~0U, range.holds(key[step]));
      count += __popc(inside[step]);
    }
    uint32_t to = 0;
    if (lane_ == 0) to = atomicAdd(scratch_.num_candidates(), count);
    to = __shfl_sync(~0U, to, 0);
    uint32_t* own = scratch_.candidates() + lower_inside_ + to;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (cluster_ == 1) {
        if (range.holds(key[step])) own[__popc(inside[step] & lanes_below(lane_))] = key[step];
        own += __popc(inside[step]);
        continue;
      }
#pragma unroll 1
      for (; inside[step] != 0; inside[step] &= inside[step] - 1, ++own) {
        const uint32_t one = __shfl_sync(~0U, key[step], __ffs(static_cast<int>(inside[step])) - 1);
        if (lane_ < cluster_) send(own, scratch_.barriers() + 2, lane_, one);
      }
    }
  }
  /// The place of the warp's listed key `i`.
  __device__ uint32_t place_of(uint32_t i) const {
    return is_listed_ ? scratch_.listed(warp_, kWarps)[i] : static_cast<uint32_t>(share_begin_) + i;
  }

  /// Counts the window's keys by their next bits.
  template <int kPass>
  __device__ void narrow_again(const uint32_t* keys, Window& window) {
    const KeyRange range(window);
#pragma unroll 2
    for (uint32_t i = lane_; i < num_listed_; i += 32) {
      const uint32_t key = keys[place_of(i)];
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
    count_candidates<1>(count, window);
    if (!window.settled()) count_candidates<2>(count, window);
    if (cluster_ == 1) return;
    const KeyRange range(window);
#pragma unroll 1
    for (uint32_t first = warp_ * 32; first < lower_inside_; first += kThreads) {
      const uint32_t key = first + lane_ < lower_inside_ ? scratch_.candidates()[first + lane_] : kAbsentKey;
      const uint32_t above = __popc(__ballot_sync(~0U, key > range.last));
      const uint32_t from = __popc(__ballot_sync(~0U, key >= range.first));
      if (lane_ < 2) atomicAdd(scratch_.lower() + lane_, lane_ == 0 ? above : from - above);
    }
    lower_inside_ = 0;
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

  __device__ void write(const uint32_t* keys, int first_position, const Window& window,
                        const SelectedRow& out) {
    KeyRange range(window);
    const bool all_wanted = window.needed == window.count;
    if (all_wanted) range.last = range.first - 1;  // then all count as above it
    const uint32_t needed = all_wanted ? 0 : window.needed;
    uint32_t above = 0;
    uint32_t from = 0;
#pragma unroll 2
    for (uint32_t i = lane_; i < num_listed_; i += 32) {
      const uint32_t key = keys[place_of(i)];
      above += key > range.last ? 1 : 0;
      from += key >= range.first ? 1 : 0;
    }
    above = __reduce_add_sync(~0U, above);
    from = __reduce_add_sync(~0U, from);
    auto* counts = reinterpret_cast<uint2*>(scratch_.warp_counts());
    if (lane_ == 0) counts[warp_] = make_uint2(above, from - above);
    __syncthreads();
    const uint2 of_warp = lane_ < warp_ ? counts[lane_] : make_uint2(0, 0);
    uint32_t above_rank = __reduce_add_sync(~0U, of_warp.x);
    uint32_t inside_rank = __reduce_add_sync(~0U, of_warp.y);
    if (cluster_ > 1) {
      const uint32_t lower_above = lower_above_ + scratch_.lower()[0];
      const uint32_t lower_inside = lower_inside_ + scratch_.lower()[1];
      above_rank += lower_above + (all_wanted ? lower_inside : 0);
      inside_rank += all_wanted ? 0 : lower_inside;
    }
#pragma unroll 1
    for (uint32_t first = 0; first < num_listed_; first += 32) {
      const bool here = first + lane_ < num_listed_;
      const uint32_t place = here ? place_of(first + lane_) : 0;
      const uint32_t key = here ? keys[place] : kAbsentKey;
      const bool is_above = key > range.last;
      const uint32_t all_above = __ballot_sync(~0U, is_above);
      uint32_t to = above_rank + __popc(all_above & lanes_below(lane_));
      bool take = is_above;
      if (needed > 0) {
        const bool is_inside = !is_above && key >= range.first;
        const uint32_t all_inside = __ballot_sync(~0U, is_inside);
        const uint32_t my_inside = inside_rank + __popc(all_inside & lanes_below(lane_));
        take = take || (is_inside && my_inside < needed);
        to += min(my_inside, needed);
        inside_rank += __popc(all_inside);
      }
      if (take) {
        out.positions[to] = first_position + static_cast<int32_t>(place);
        if (out.slots != nullptr) {
          out.slots[to] = out.slice_pages[place / 64] * 64 + static_cast<int32_t>(place % 64);
        }
      }
      above_rank += __popc(all_above);
    }
  }

  SelectScratch scratch_;
  uint32_t cluster_;
  uint32_t rank_;
  uint32_t lane_;
  uint32_t warp_;
  uint32_t turn_ = 0;             // of the counts' exchange
  uint32_t candidate_phase_ = 0;  // of the candidates'
  uint32_t lower_above_ = 0;      // keys of lower ranks
  uint32_t lower_inside_ = 0;
  int share_begin_ = 0;  // the warp's keys, listed or not
  bool is_listed_ = false;
  uint32_t num_listed_ = 0;
};

}  // namespace fulgur::cuda
