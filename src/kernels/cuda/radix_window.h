#pragma once

// The search for the k-th largest of many floats, as functions that both the kernels and their host tests
// call.
//
// Floats become ordered keys: unsigned numbers in the order of the floats, -0 with the key of +0, no valid
// key 0 (which so can stand for "no score here"). The search narrows a window [low, low + 2^bits) of keys
// that holds the k-th: each pass counts the window's keys in 2^12, 2^9, 2^11 bins by their next bits, and the
// bin that the k-th falls into is the next window. It ends early when all keys of the window are wanted, and
// after three passes the window is one key, whatever the keys are: concentrated scores take one pass more
// than spread ones.

#include <cstdint>

namespace fulgur::cuda {

constexpr uint32_t kAbsentKey = 0;

constexpr uint32_t ordered_key(uint32_t float_bits) {
  constexpr uint32_t kSign = 0x80000000;
  if (float_bits == kSign) return kSign;  // -0 is +0
  return (float_bits & kSign) != 0 ? ~float_bits : float_bits | kSign;
}

/// Where the k-th largest key is known to lie.
struct Window {
  uint32_t low;
  uint32_t bits;
  uint32_t
      needed;  // so many of its keys are wanted (all above it are): the largest, then the lowest positions
  uint32_t count;  // keys in it

  /// No further pass is needed: all its keys are wanted, or they are all equal.
  [[nodiscard]] constexpr bool settled() const { return needed == count || bits == 0; }
  [[nodiscard]] constexpr bool holds(uint32_t key) const { return bits == 32 || ((key - low) >> bits) == 0; }
  /// The key is above the window, so it is wanted.
  [[nodiscard]] constexpr bool beaten_by(uint32_t key) const { return key >= low && !holds(key); }
};

constexpr Window whole_range(uint32_t topk, uint32_t count) { return {0, 32, topk, count}; }

constexpr int kPasses = 3;
constexpr uint32_t pass_shift(int pass) { return pass == 0 ? 20 : pass == 1 ? 11 : 0; }
constexpr uint32_t pass_bins(int pass) { return pass == 0 ? 4096 : pass == 1 ? 512 : 2048; }
constexpr uint32_t kMostBins = 4096;

/// Histograms are searched in two steps of 64: groups of 64 bins, then the bins of a group.
constexpr uint32_t kBinGroup = 64;

/// The place in 64 counts, from the last down, where their running sum reaches `needed`.
struct Crossing {
  uint32_t index;
  uint32_t above;  // sum of the counts behind it
  uint32_t count;
};

constexpr Window narrowed(const Window& window, uint32_t shift, uint32_t bin, const Crossing& fine) {
  return {window.low + (bin << shift), shift, window.needed - fine.above, fine.count};
}

}  // namespace fulgur::cuda
