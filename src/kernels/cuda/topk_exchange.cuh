#pragma once

// What the blocks of a cluster tell each other to find the k-th largest of the keys they hold together.
//
// A message is a block's counts: sums of 64 groups of bins, the 64 bins of the one group that it guesses the
// k-th key to lie in from its own counts, and its guess. Each block sends it to all, itself too, by stores
// that count themselves on the receiver's barrier (no fence, no cluster barrier); a warp of each adds them up
// and finds the bin, and how many keys of lower ranks lie above and in it. Where all guessed right, a pass
// takes one exchange. A block that guessed another group but has no key in the right one has told all there
// is to tell (of ascending scores most have none): its bins are left out of a second sum. Else the bins of
// the right group follow in a second exchange.
//
// Messages lie in two places and count on two barriers by turns: one for the next turn overwrites none that a
// slow block still reads, nor counts on a barrier that still waits for others of this turn.

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/ordered_keys.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/select_layout.h"

namespace fulgur::cuda {

constexpr uint32_t kMostSent = 4096;  // candidates of a block, times the blocks it sends them to

struct CountMessage : CountWords {
  static constexpr uint32_t kNan = 0x80000000;  // beside the guess

  /// Groups and then bins.
  __device__ static const uint16_t* counts(const uint32_t* message) {
    return reinterpret_cast<const uint16_t*>(message);
  }
};

/// A block's shared memory for a selection.
struct SelectScratch {
  uint32_t* words;  // [SelectWords::all(threads, cluster)], 16-byte aligned
  uint32_t cluster;

  __device__ uint32_t* histogram(int pass) const {
    return words + (pass > 0 ? pass_bins(0) : 0) + (pass > 1 ? pass_bins(1) : 0);
  }
  __device__ uint32_t* groups(int pass) const { return words + SelectWords::kHistograms + pass * kBinGroup; }
  __device__ uint32_t* counters() const { return words + SelectWords::kHistograms + SelectWords::kGroups; }
  __device__ uint32_t* num_candidates() const { return counters(); }  // of this block
  __device__ uint32_t* lower() const { return counters() + 1; }       // [2] of lower ranks: above, inside
  /// Of all blocks, rank by rank.
  __device__ uint32_t* candidates() const { return words + SelectWords::kCleared; }
  __device__ uint32_t* warp_sums() const { return candidates() + kMostCandidates; }           // [32]
  __device__ uint32_t* warp_counts() const { return warp_sums() + 32; }                       // [32][2]
  __device__ uint32_t* found() const { return warp_counts() + 64; }                           // [3]
  __device__ uint64_t* barriers() const { return reinterpret_cast<uint64_t*>(found() + 4); }  // [3]
  __device__ uint32_t* sums() const { return found() + 12; }                                  // CountSums
  __device__ uint32_t* messages(uint32_t turn) const {  // [cluster][kWords]
    return sums() + SelectWords::kSums + turn * cluster * CountMessage::kWords;
  }
  __device__ uint16_t* listed(uint32_t warp, uint32_t warps) const {
    return reinterpret_cast<uint16_t*>(cluster > 1 ? messages(2) : sums()) +
           warp * SelectWords::listed_places(warps);
  }
};

/// What a pass over the counts of all blocks found.
struct Found {
  uint32_t group;
  Crossing bin;           // index among all bins; above: keys of all blocks above it
  uint32_t lower_above;   // of these, of blocks of lower rank
  uint32_t lower_inside;  // in the bin, of blocks of lower rank
  bool nan;               // met by a block
  bool guessed_right;     // by all that were summed; else only `group` and `nan` hold
};

/// 64 counts, two a lane, from the last down: 63 - 2 lane and 62 - 2 lane.
struct TwoCounts {
  uint32_t lower;
  uint32_t upper;
};
__device__ inline TwoCounts two_counts(const uint32_t* counts, uint32_t lane) {
  const uint2 two = *reinterpret_cast<const uint2*>(counts + 62 - 2 * lane);
  return {two.x, two.y};
}
__device__ inline uint32_t running_sum(TwoCounts counts) {
  return sum_of_lanes_up_to(counts.upper + counts.lower);
}
/// Where the running sum reaches `needed` (nowhere: any place). By a whole warp.
__device__ inline Crossing crossing_of(TwoCounts counts, uint32_t sum, uint32_t needed, uint32_t lane) {
  const uint32_t reached = __ballot_sync(~0U, sum >= needed);
  const uint32_t source = (__ffs(static_cast<int>(reached)) - 1) & 31;
  const uint32_t before = sum - counts.upper - counts.lower;
  const bool in_upper = before + counts.upper >= needed;
  const uint32_t above = in_upper ? before : before + counts.upper;
  const uint32_t count = in_upper ? counts.upper : counts.lower;
  const uint32_t upper = __shfl_sync(~0U, in_upper ? 1 : 0, source);
  return {62 - 2 * source + upper, __shfl_sync(~0U, above, source), __shfl_sync(~0U, count, source)};
}

/// The sums of a cluster's messages, by four warps: groups of the lower and the upper eight ranks, then bins
/// of those of `ranks`. [kind][half][all, of ranks below this][64].
__device__ inline void sum_messages(const uint32_t* messages, uint32_t cluster, uint32_t ranks, uint32_t rank,
                                    uint32_t warp, uint32_t lane, uint32_t* sums) {
  constexpr uint32_t kHalf = kMostCluster / 2;
  const uint32_t first = warp % 2 * kHalf;
  const uint32_t* words = messages + warp / 2 * CountMessage::kGroupWords + lane;
  const uint32_t summed = (warp < 2 ? (1U << cluster) - 1 : ranks) >> first;
  TwoCounts all{0, 0};
  TwoCounts below{0, 0};
#pragma unroll
  for (uint32_t i = 0; i < kHalf; ++i) {
    const uint32_t r = first + i;
    const uint32_t word = (summed >> i & 1) != 0 ? words[r * CountMessage::kWords] : 0;
    all.lower += word & 0xFFFF;
    all.upper += word >> 16;
    below.lower += r < rank ? word & 0xFFFF : 0;
    below.upper += r < rank ? word >> 16 : 0;
  }
  auto* to = reinterpret_cast<uint2*>(sums + warp * 2 * kBinGroup) + lane;
  to[0] = make_uint2(all.lower, all.upper);
  to[kBinGroup / 2] = make_uint2(below.lower, below.upper);
}

/// The bin of the k-th key from these sums. By each warp for itself.
__device__ inline Found find_bin(const uint32_t* messages, const uint32_t* sums, uint32_t cluster,
                                 uint32_t ranks, uint32_t needed, uint32_t lane) {
  const auto both_halves = [&](uint32_t kind, uint32_t of) {
    const TwoCounts a = two_counts(sums + (kind * 4 + of) * kBinGroup, lane);
    const TwoCounts b = two_counts(sums + (kind * 4 + 2 + of) * kBinGroup, lane);
    return TwoCounts{a.lower + b.lower, a.upper + b.upper};
  };
  const TwoCounts groups = both_halves(0, 0);
  const TwoCounts bins = both_halves(1, 0);
  const uint32_t guess =
      lane < cluster ? messages[lane * CountMessage::kWords + CountMessage::kGuessWord] : 0;
  const uint32_t group_sum = running_sum(groups);
  const uint32_t bin_sum = running_sum(bins);
  const Crossing group = crossing_of(groups, group_sum, needed, lane);
  const Crossing bin = crossing_of(bins, bin_sum, needed - group.above, lane);
  const TwoCounts lower_groups = both_halves(0, 1);
  const TwoCounts lower_bins = both_halves(1, 1);
  const uint32_t lower = 62 - 2 * lane;  // index of the lane's lower counts
  const uint32_t lower_above =
      (lower > group.index ? lower_groups.lower : 0) + (lower + 1 > group.index ? lower_groups.upper : 0) +
      (lower > bin.index ? lower_bins.lower : 0) + (lower + 1 > bin.index ? lower_bins.upper : 0);
  const uint32_t lower_inside = lower == bin.index       ? lower_bins.lower
                                : lower + 1 == bin.index ? lower_bins.upper
                                                         : 0;
  return {group.index,
          {group.index * kBinGroup + bin.index, group.above + bin.above, bin.count},
          __reduce_add_sync(~0U, lower_above),
          __reduce_add_sync(~0U, lower_inside),
          __any_sync(~0U, (guess & CountMessage::kNan) != 0) != 0,
          __all_sync(~0U, (ranks >> lane & 1) == 0 || (guess & ~CountMessage::kNan) == group.index) != 0};
}

/// The ranks that sent the bins of `group`; none, if another has keys in it, so that its bins are missed.
__device__ inline uint32_t ranks_that_told(const uint32_t* messages, uint32_t cluster, uint32_t group,
                                           uint32_t lane) {
  const uint32_t* message = messages + lane * CountMessage::kWords;
  const bool right = lane < cluster && (message[CountMessage::kGuessWord] & ~CountMessage::kNan) == group;
  const bool missed = lane < cluster && !right && CountMessage::counts(message)[group] != 0;
  const uint32_t ranks = __ballot_sync(~0U, right);
  return __any_sync(~0U, missed) != 0 ? 0 : ranks;
}
/// The most keys that one of `ranks` has in a bin of its group.
__device__ inline uint32_t most_in_bin(const uint32_t* messages, uint32_t ranks, uint32_t bin,
                                       uint32_t lane) {
  const uint16_t* counts = CountMessage::counts(messages + lane * CountMessage::kWords);
  return __reduce_max_sync(~0U, (ranks >> lane & 1) != 0 ? counts[kBinGroup + bin % kBinGroup] : 0U);
}

/// This block's message to all: half a warp a vector.
template <int kThreads>
__device__ void send_counts(const uint32_t* groups, const uint32_t* bins, uint32_t guess, uint32_t* inbox,
                            uint64_t* barrier, uint32_t cluster, uint32_t rank) {
  if (threadIdx.x == 0) mbarrier_expect(barrier, cluster * CountMessage::kWords * 4);
  const uint32_t peer = threadIdx.x % kMostCluster;
#pragma unroll
  for (uint32_t first = 0; first < CountMessage::kVectors; first += kThreads / kMostCluster) {
    const uint32_t v = first + threadIdx.x / kMostCluster;
    if (v >= CountMessage::kVectors || peer >= cluster) continue;
    uint4 value = make_uint4(guess, 0, 0, 0);
    if (v < CountMessage::kVectors - 1) {
      const auto* counts = reinterpret_cast<const uint4*>(v < 8 ? groups + v * 8 : bins + (v - 8) * 8);
      const uint4 a = counts[0];
      const uint4 b = counts[1];
      value = make_uint4(a.x | a.y << 16, a.z | a.w << 16, b.x | b.y << 16, b.z | b.w << 16);
    }
    send(inbox + rank * CountMessage::kWords + v * 4, barrier, peer, value);
  }
}

}  // namespace fulgur::cuda
