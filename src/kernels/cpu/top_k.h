#pragma once

// The k best of n scores, exactly: higher first, then the lower index; -0 equals 0. No sort: the k-th best is
// found as a number, and what lies above it and the first of those equal to it are taken.
//
// The k-th best of all is at least the k-th best of the maxima of disjoint groups. So the maxima of groups of
// up to kMaxGroup vectors give a bound that few scores pass, and the exact search sees only those. It
// counts the scores in bins of equal width between the least and the greatest, keeps the bin with the k-th
// best, and starts again in it; from the third time on the bins are equal in order-preserving integers
// instead, which ends after a few rounds whatever the scores are: equal, concentrated, sorted, of all
// exponents or infinite. Cost: two passes over the scores and some 10 k steps; at worst (all equal) a few
// scalar passes.

#include "kernels/cpu/kernel.h"

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
      : left_(static_cast<float*>(scratch)),
        places_(left_ + max_scores),
        candidates_(places_ + max_scores),
        indices_(reinterpret_cast<int32_t*>(candidates_ + max_scores)) {}
  static size_t scratch_bytes(int64_t max_scores) {
    return 4 * static_cast<size_t>(max_scores) * sizeof(float);
  }

  /// Writes the min(k, n) best indices, ascending, and returns true; false if a score is NaN. `scores` has
  /// room for a multiple of 64, and what lies behind the first n is overwritten.
  bool select(float* scores, int64_t n, int64_t k, int32_t* best) {
    for (int64_t i = n; i % kBlock != 0; ++i) scores[i] = -std::numeric_limits<float>::infinity();
    const int64_t whole = n / kLanes * kLanes;
    const int64_t group = std::clamp<int64_t>(whole / (2 * k), 1, kMaxGroup);
    int64_t num_maxima = 0;
    if (!group_maxima(scores, n, group, num_maxima)) return false;
    if (n <= k) {
      for (int64_t i = 0; i < n; ++i) best[i] = static_cast<int32_t>(i);
      return true;
    }
    if (group == 1) {  // the maxima are the scores
      take_scores(scores, n, find_cut(n, k), best);
      return true;
    }
    const int64_t count = collect(scores, n, bound_of_maxima(num_maxima, k));
    std::memcpy(left_, candidates_, static_cast<size_t>(count) * sizeof(float));
    take_candidates(find_cut(count, k), best, best + k);
    return true;
  }

 private:
  static constexpr int64_t kBlock = 64;
  static constexpr int64_t kMaxGroup = 16;
  static constexpr int kMaxBinBits = 8;
  static constexpr int kTables = 4;  // histograms side by side: equal neighbours don't wait for each other
  static constexpr int kLinearRounds = 2;
  static constexpr int64_t kFew = 12;

  /// What is taken: everything above `score` and the first `ties` of those equal to it.
  struct Cut {
    float score;
    int64_t ties;
  };

  /// left_ = the maximum of each lane over runs of `group` whole vectors, and behind them the rest of the
  /// scores; false if there is a NaN.
  bool group_maxima(const float* scores, int64_t n, int64_t group, int64_t& num_maxima) {
    const int64_t whole = n / kLanes * kLanes;
    Mask nan = is_nan(load(scores + whole, static_cast<int>(n - whole)));
    num_maxima = 0;
    for (int64_t i = 0; i < whole;) {
      const int64_t end = std::min(whole, i + group * kLanes);
      Vec best = load(scores + i);
      nan = nan | is_nan(best);
      for (i += kLanes; i < end; i += kLanes) {
        const Vec next = load(scores + i);
        nan = nan | is_nan(next);
        best = max(best, next);
      }
      store(left_ + num_maxima, best);
      num_maxima += kLanes;
    }
    for (int64_t i = whole; i < n; ++i) left_[num_maxima + i - whole] = scores[i];
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

  /// The scores that are at least `bound` become the candidates; returns their number.
  int64_t collect(const float* scores, int64_t n, float bound) {
    const Vec bounds = splat(bound);
    int64_t count = 0;
    for (int64_t block = 0; block < n; block += kBlock) {
      uint64_t mask = at_least(scores + block, bounds) & inside(block, n);
      for (; mask != 0; mask &= mask - 1) {
        const int64_t i = block + std::countr_zero(mask);
        candidates_[count] = scores[i];
        indices_[count++] = static_cast<int32_t>(i);
      }
    }
    return count;
  }

  /// At most the k-th largest of left_[0, n), and near it: the edge below its bin.
  float bound_of_maxima(int64_t n, int64_t k) {
    const Range range = range_of_left(n);
    const float width = (range.high - range.low) / static_cast<float>((1 << kMaxBinBits) - 1);
    if (!std::isfinite(width) || !std::isfinite(1 / width)) return find_cut(n, k).score;
    place_by_score(n, range.low, 1 / width, kMaxBinBits);
    count_places(n, kMaxBinBits);
    // Scores are at least half a bin above the middle of the bin before theirs; the other half outweighs
    // rounding.
    const uint32_t bin = bin_of(k, kMaxBinBits);
    return bin == 0 ? range.low : range.low + static_cast<float>(bin - 1) * width;
  }

  /// The k-th largest of left_[0, n), 1 <= k <= n, and how many equal ones belong to the k largest.
  /// Overwrites left_.
  Cut find_cut(int64_t n, int64_t k) {
    for (int round = 0;; ++round) {
      if (n <= kFew) return cut_of_few(n, k);
      const Range range = range_of_left(n);
      if (range.low == range.high) return {range.low, k};
      const int bin_bits = n < 512 ? kMaxBinBits - 2 : kMaxBinBits;
      const float width = (range.high - range.low) / static_cast<float>((1 << bin_bits) - 1);
      if (round < kLinearRounds && std::isfinite(width) && std::isfinite(1 / width)) {
        place_by_score(n, range.low, 1 / width, bin_bits);
      } else {
        place_by_key(n, range, bin_bits);
      }
      count_places(n, bin_bits);
      n = keep_bin(n, bin_of(k, bin_bits));
    }
  }

  /// The bin of the k-th largest; k becomes its rank in that bin.
  uint32_t bin_of(int64_t& k, int bin_bits) const {
    for (uint32_t bin = (1U << bin_bits) - 1;; --bin) {
      int64_t here = 0;
      for (const auto& table : counts_) here += table[bin];
      if (here >= k) return bin;
      k -= here;
    }
  }

  /// The same for a handful: sorted by insertion.
  Cut cut_of_few(int64_t n, int64_t k) {
    for (int64_t i = 1; i < n; ++i) {
      const float score = left_[i];
      int64_t j = i;
      for (; j > 0 && left_[j - 1] < score; --j) left_[j] = left_[j - 1];
      left_[j] = score;
    }
    int64_t above = k - 1;
    while (above > 0 && left_[above - 1] == left_[k - 1]) --above;
    return {left_[k - 1], k - above};
  }

  struct Range {
    float low;
    float high;
  };
  [[nodiscard]] Range range_of_left(int64_t n) const {
    Range range{left_[0], left_[0]};
    int64_t i = 0;
    if (n >= kLanes) {
      Vec lows = load(left_);
      Vec highs = lows;
      for (i = kLanes; i + kLanes <= n; i += kLanes) {
        lows = min(lows, load(left_ + i));
        highs = max(highs, load(left_ + i));
      }
      range = {-max_lane(zero() - lows), max_lane(highs)};
    }
    for (; i < n; ++i) range = {std::min(range.low, left_[i]), std::max(range.high, left_[i])};
    return range;
  }

  // Bin b is held as the float 2^23 + b, whose low bits are the integer b.
  static constexpr float kFirstPlace = 0x1p23F;
  static uint32_t bin_at(float place) { return std::bit_cast<uint32_t>(place) & ((1U << kMaxBinBits) - 1); }

  /// places_ = bins of equal width from `low` on: monotonic, however it is rounded.
  void place_by_score(int64_t n, float low, float per_width, int bin_bits) {
    const Vec last = splat(static_cast<float>((1 << bin_bits) - 1));
    for (int64_t i = 0; i < n; i += kLanes) {
      store(places_ + i, min((load(left_ + i) - splat(low)) * splat(per_width), last) + splat(kFirstPlace));
    }
  }
  void place_by_key(int64_t n, Range range, int bin_bits) {
    const uint32_t low = ordered_key(range.low);
    const int shift = std::max(0, static_cast<int>(std::bit_width(ordered_key(range.high) - low)) - bin_bits);
    for (int64_t i = 0; i < n; ++i) {
      places_[i] = kFirstPlace + static_cast<float>((ordered_key(left_[i]) - low) >> shift);
    }
  }

  void count_places(int64_t n, int bin_bits) {
    for (auto& table : counts_) std::fill_n(table, 1 << bin_bits, 0U);
    int64_t i = 0;
    for (; i + kTables <= n; i += kTables) {
      for (int t = 0; t < kTables; ++t) ++counts_[t][bin_at(places_[i + t])];
    }
    for (; i < n; ++i) ++counts_[0][bin_at(places_[i])];
  }

  /// left_ = those of left_[0, n) in this bin; returns their number.
  int64_t keep_bin(int64_t n, uint32_t bin) {
    const Vec place = splat(kFirstPlace + static_cast<float>(bin));
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += kLanes) {
      uint32_t mask = bits(load(places_ + i) == place);
      if (n - i < kLanes) mask &= (1U << (n - i)) - 1;
      for (; mask != 0; mask &= mask - 1) left_[count++] = left_[i + std::countr_zero(mask)];
    }
    return count;
  }

  static void take_scores(const float* scores, int64_t n, Cut cut, int32_t* best) {
    const Vec bound = splat(cut.score);
    for (int64_t block = 0; block < n; block += kBlock) {
      uint64_t mask = at_least(scores + block, bound) & inside(block, n);
      const uint64_t more = above(scores + block, bound) & mask;
      uint64_t equal = mask & ~more;
      mask = more;
      for (; equal != 0 && cut.ties > 0; equal &= equal - 1, --cut.ties) mask |= equal & -equal;
      for (; mask != 0; mask &= mask - 1) *best++ = static_cast<int32_t>(block + std::countr_zero(mask));
    }
  }

  void take_candidates(Cut cut, int32_t* best, const int32_t* end) const {
    for (int64_t i = 0; best != end; ++i) {
      const bool equal = candidates_[i] == cut.score && cut.ties > 0;
      *best = indices_[i];
      best += candidates_[i] > cut.score || equal ? 1 : 0;
      cut.ties -= equal ? 1 : 0;
    }
  }

  float* left_;        // what find_cut still looks at
  float* places_;      // the bin of each
  float* candidates_;  // the scores that pass the bound
  int32_t* indices_;   // and where they were
  uint32_t counts_[kTables][1 << kMaxBinBits];
};

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
