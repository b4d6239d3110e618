#pragma once

// The k best of n scores, exactly: higher first, then the lower index; -0 equals 0. No sort: the k-th best is
// found as a number, and one pass takes what lies above it and the first of those equal to it.
//
// The k-th best of all is at least the k-th best of the maxima of disjoint groups. So the maxima of groups of
// up to kMaxGroup vectors give a bound that few scores pass, and the exact search sees only those. A
// range-adaptive radix search over order-preserving integers ends after at most six passes over what is left,
// whatever the scores are: equal, concentrated or sorted. Cost: two passes over the scores and some 3 k
// steps; at worst (all equal) a few scalar passes.

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// f32 as integers of the same order; not for NaN.
inline uint32_t ordered_key(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0F);  // -0 + 0 is 0
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffU : 0x80000000U);
}
inline float score_of_key(uint32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) != 0 ? 0x80000000U : 0xffffffffU));
}

class TopK {
 public:
  /// For up to max_scores scores, which is a multiple of 64; `scratch` has scratch_bytes(max_scores).
  TopK(int64_t max_scores, void* scratch)
      : keys_(static_cast<uint32_t*>(scratch)), maxima_(reinterpret_cast<float*>(keys_ + max_scores)) {}
  static size_t scratch_bytes(int64_t max_scores) {
    return 2 * static_cast<size_t>(max_scores) * sizeof(uint32_t);
  }

  /// Writes the min(k, n) best indices, ascending, and returns true; false if a score is NaN. `scores` has
  /// room for a multiple of 64, and what lies behind the first n is overwritten.
  bool select(float* scores, int64_t n, int64_t k, int32_t* best) {
    for (int64_t i = n; i % kBlock != 0; ++i) scores[i] = -std::numeric_limits<float>::infinity();
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    const int64_t group = std::min<int64_t>(n / (2 * k), kMaxGroup);
    if (group < 2) {
      if (!no_nan(scores, blocks * kBlock)) return false;
      if (n <= k) {
        for (int64_t i = 0; i < n; ++i) best[i] = static_cast<int32_t>(i);
        return true;
      }
      for (int64_t i = 0; i < n; ++i) keys_[i] = ordered_key(scores[i]);
      take(scores, n, find_cut(n, k), best);
      return true;
    }
    int64_t num_maxima = 0;
    if (!group_maxima(scores, blocks * kBlock, group, num_maxima)) return false;
    for (int64_t i = 0; i < num_maxima; ++i) keys_[i] = ordered_key(maxima_[i]);
    const float bound = score_of_key(find_cut(num_maxima, k).key);
    take(scores, n, find_cut(collect(scores, n, bound), k), best);
    return true;
  }

 private:
  static constexpr int64_t kBlock = 64;
  static constexpr int64_t kMaxGroup = 16;
  static constexpr int kMaxBinBits = 8;
  static constexpr int kTables =
      4;  // histograms side by side: equal neighbours don't wait for each other's store

  /// What is taken: everything above `key` and the first `ties` of those equal to it.
  struct Cut {
    uint32_t key;
    int64_t ties;
  };

  static bool no_nan(const float* scores, int64_t padded) {
    Mask nan = is_nan(zero());
    for (int64_t i = 0; i < padded; i += kLanes) nan = nan | is_nan(load(scores + i));
    return bits(nan) == 0;
  }

  /// The maximum of each lane over runs of `group` vectors; false if there is a NaN.
  bool group_maxima(const float* scores, int64_t padded, int64_t group, int64_t& num_maxima) {
    Mask nan = is_nan(zero());
    num_maxima = 0;
    for (int64_t i = 0; i < padded;) {
      const int64_t end = std::min(padded, i + group * kLanes);
      Vec best = load(scores + i);
      nan = nan | is_nan(best);
      for (i += kLanes; i < end; i += kLanes) {
        const Vec next = load(scores + i);
        nan = nan | is_nan(next);
        best = max(best, next);
      }
      store(maxima_ + num_maxima, best);
      num_maxima += kLanes;
    }
    return bits(nan) == 0;
  }

  /// Bit i: block[i] >= bound; and the same for >.
  static uint64_t at_least(const float* block, Vec bound) {
    uint64_t mask = 0;
    for (int i = 0; i < kBlock; i += kLanes) mask |= uint64_t{bits(bound <= load(block + i))} << i;
    return mask;
  }
  static uint64_t above(const float* block, Vec bound) {
    uint64_t mask = 0;
    for (int i = 0; i < kBlock; i += kLanes) mask |= uint64_t{bits(bound < load(block + i))} << i;
    return mask;
  }
  /// The bits of a block that stand for one of the n scores.
  static uint64_t inside(int64_t block, int64_t n) {
    return n - block >= kBlock ? ~uint64_t{0} : (uint64_t{1} << (n - block)) - 1;
  }

  /// keys_ = the keys of the scores that are at least `bound`; returns their number.
  int64_t collect(const float* scores, int64_t n, float bound) {
    const Vec bounds = splat(bound);
    int64_t count = 0;
    for (int64_t block = 0; block < n; block += kBlock) {
      for (uint64_t mask = at_least(scores + block, bounds) & inside(block, n); mask != 0; mask &= mask - 1) {
        keys_[count++] = ordered_key(scores[block + std::countr_zero(mask)]);
      }
    }
    return count;
  }

  /// The k-th largest of keys_[0, n), 1 <= k <= n, and how many equal ones belong to the k largest.
  /// Overwrites keys_.
  Cut find_cut(int64_t n, int64_t k) {
    while (true) {
      uint32_t low = keys_[0];
      uint32_t high = keys_[0];
      for (int64_t i = 1; i < n; ++i) {
        low = keys_[i] < low ? keys_[i] : low;
        high = keys_[i] > high ? keys_[i] : high;
      }
      if (low == high) return {low, k};
      const int bin_bits = n < 512 ? 6 : kMaxBinBits;
      const int shift = std::max(0, static_cast<int>(std::bit_width(high - low)) - bin_bits);
      uint32_t bin = count_bins(n, low, high, shift);
      while (true) {
        int64_t here = 0;
        for (const auto& table : counts_) here += table[bin];
        if (here >= k) break;
        k -= here;
        --bin;
      }
      if (shift == 0) return {low + bin, k};
      int64_t left = 0;
      for (int64_t i = 0; i < n; ++i) {
        const uint32_t key = keys_[i];
        keys_[left] = key;
        left += ((key - low) >> shift) == bin ? 1 : 0;
      }
      n = left;
    }
  }

  /// counts_ = how many of keys_[0, n) lie in each bin of width 2^shift from `low`; returns the bin of
  /// `high`, the last.
  uint32_t count_bins(int64_t n, uint32_t low, uint32_t high, int shift) {
    const uint32_t last = (high - low) >> shift;
    for (auto& table : counts_) std::memset(table, 0, (last + 1) * sizeof table[0]);
    int64_t i = 0;
    for (; i + kTables <= n; i += kTables) {
      for (int t = 0; t < kTables; ++t) ++counts_[t][(keys_[i + t] - low) >> shift];
    }
    for (; i < n; ++i) ++counts_[0][(keys_[i] - low) >> shift];
    return last;
  }

  static void take(const float* scores, int64_t n, Cut cut, int32_t* best) {
    const Vec bound = splat(score_of_key(cut.key));
    for (int64_t block = 0; block < n; block += kBlock) {
      uint64_t mask = at_least(scores + block, bound) & inside(block, n);
      if (mask == 0) continue;
      const uint64_t more = above(scores + block, bound) & mask;
      uint64_t equal = mask & ~more;
      mask = more;
      for (; equal != 0 && cut.ties > 0; equal &= equal - 1, --cut.ties) mask |= equal & -equal;
      for (; mask != 0; mask &= mask - 1) *best++ = static_cast<int32_t>(block + std::countr_zero(mask));
    }
  }

  uint32_t* keys_;
  float* maxima_;
  uint32_t counts_[kTables][1 << kMaxBinBits];
};

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
