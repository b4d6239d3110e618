#pragma once

// Each warp's share of the keys of a block that selects: which of them may be selected, and where they go.
//
// A warp lists the places of those of its share that lie in a window or above it. The window's keys are
// copied out on the way if they are to be candidates, over a cluster to all blocks. Output places are prefix
// counts in position order: within a warp by ballots, over warps by sums of counts.

#include "kernels/cuda/ordered_keys.cuh"
#include "kernels/cuda/selected_row.cuh"
#include "kernels/cuda/topk_exchange.cuh"

namespace fulgur::cuda {

/// Keys of blocks of lower rank.
struct LowerRanks {
  uint32_t above;   // the window
  uint32_t inside;  // the window
};

/// kSmallShares: a warp's share of the keys is a few vectors of 32 at times, for which it has code of its own
/// (which costs the kernels for long rows 6%).
template <int kThreads, bool kSmallShares>
class TopkList {
 public:
  static constexpr int kWarps = kThreads / 32;
  static constexpr uint32_t kListed = SelectWords::listed_places(kWarps);

  __device__ explicit TopkList(const SelectScratch& scratch)
      : scratch_(scratch), cluster_(scratch.cluster), lane_(threadIdx.x % 32), warp_(threadIdx.x / 32) {}

  __device__ void leave_cluster() { cluster_ = 1; }

  /// The places of those in or above the window, ascending, if they have room and not `all` shall be taken;
  /// else, and where it has a key a lane, all keys of a share are taken for listed. Copies the window's keys
  /// to `candidates`, in all blocks, behind those of lower ranks, if it isn't null.
  __device__ void take(const uint32_t* keys, int n, const Window& window, bool all, uint32_t* candidates) {
    if (candidates != nullptr && cluster_ > 1 && threadIdx.x == 0)
      mbarrier_expect(scratch_.barriers() + 2, window.count * 4);
    // Instructions in a row are what takes the time: one round without idle steps, if the share is small.
    const int each = (n + kThreads - 1) / kThreads;
    if (kSmallShares && each == 1) {
      list_share<1>(keys, n, each * 32, window, all, candidates);
    } else if (kSmallShares && each == 2) {
      list_share<2>(keys, n, each * 32, window, all, candidates);
    } else if (kSmallShares && (each == 5 || each == 6)) {
      list_share<6>(keys, n, each * 32, window, all, candidates);
    } else {
      list_share<4>(keys, n, each * 32, window, all, candidates);
    }
  }

  /// The selection: all above the window, and the first of its keys that are needed. `lower` and
  /// SelectScratch::lower() count keys together.
  __device__ void write(const uint32_t* keys, int first_position, const Window& window,
                        const LowerRanks& lower, const SelectedRow& out) const {
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
      const uint32_t lower_inside = lower.inside + scratch_.lower()[1];
      above_rank += lower.above + scratch_.lower()[0] + (all_wanted ? lower_inside : 0);
      inside_rank += all_wanted ? 0 : lower_inside;
    }
    if (above == 0 && (from == 0 || inside_rank >= needed)) return;  // of ties, most warps
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

 private:
  /// kSteps of 32 keys at a time that don't wait for each other.
  template <int kSteps>
  __device__ void list_share(const uint32_t* keys, int n, int share, const Window& window, bool all,
                             uint32_t* candidates) {
    share_begin_ = static_cast<int>(warp_) * share;
    const int end = min(share_begin_ + share, n);
    uint16_t* listed = scratch_.listed(warp_, kWarps);
    const bool lists = share > 32 && !all;
    const KeyRange range(window);
    uint32_t count = 0;
#pragma unroll 1
    for (int first = all ? end : share_begin_; first < end; first += 32 * kSteps) {
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
      if (candidates != nullptr && __any_sync(~0U, any_inside)) copy_candidates(key, range, candidates);
    }
    is_listed_ = lists && count <= kListed;
    num_listed_ = is_listed_ ? count : static_cast<uint32_t>(max(end - share_begin_, 0));
    __syncwarp();
  }
  /// Those of the keys in the range to the list of candidates. By a warp.
  template <int kSteps>
  __device__ void copy_candidates(const uint32_t (&key)[kSteps], const KeyRange& range,
                                  uint32_t* candidates) const {
    uint32_t inside[kSteps];
    uint32_t count = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      inside[step] = __ballot_sync(~0U, range.holds(key[step]));
      count += __popc(inside[step]);
    }
    uint32_t to = 0;
    if (lane_ == 0) to = atomicAdd(scratch_.num_candidates(), count);
    uint32_t* own = candidates + __shfl_sync(~0U, to, 0);
    uint64_t* barrier = scratch_.barriers() + 2;
    if (cluster_ == 1) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        if (range.holds(key[step])) own[__popc(inside[step] & lanes_below(lane_))] = key[step];
        own += __popc(inside[step]);
      }
    } else if (2 * count > kSteps * cluster_) {
      // Many: one block after the other, each lane its own key, so that packets are whole.
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t* to_own = own + __popc(inside[step] & lanes_below(lane_));
        if (range.holds(key[step])) {
#pragma unroll 1
          for (uint32_t peer = 0; peer < cluster_; ++peer) send(to_own, barrier, peer, key[step]);
        }
        own += __popc(inside[step]);
      }
    } else {
      // Few: one after the other, each lane to a block.
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll 1
        for (; inside[step] != 0; inside[step] &= inside[step] - 1, ++own) {
          const uint32_t one = __shfl_sync(~0U, key[step], __ffs(static_cast<int>(inside[step])) - 1);
          if (lane_ < cluster_) send(own, barrier, lane_, one);
        }
      }
    }
  }
  /// The place of the warp's listed key `i`.
  __device__ uint32_t place_of(uint32_t i) const {
    return is_listed_ ? scratch_.listed(warp_, kWarps)[i] : static_cast<uint32_t>(share_begin_) + i;
  }

  SelectScratch scratch_;
  uint32_t cluster_;
  uint32_t lane_;
  uint32_t warp_;
  int share_begin_ = 0;  // the warp's keys, listed or not
  bool is_listed_ = false;
  uint32_t num_listed_ = 0;
};

}  // namespace fulgur::cuda
