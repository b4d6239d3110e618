#pragma once

// Scores as keys whose order as integers is theirs, as the tuned selection has them.

#include "kernels/cuda/radix_window.h"

namespace fulgur::cuda {

/// ordered_key() of a float, without a branch. The sum makes 0 of -0 and the one NaN 0x7FFFFFFF of any (CUDA
/// C++ Programming Guide, floating-point standard), so NaNs, and nothing else, are counted in the last bin.
__device__ inline uint32_t ordered_key_of(float score) {
  const uint32_t bits = __float_as_uint(__fadd_rn(score, 0.0F));
  return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000U);
}

__device__ inline uint32_t lanes_below(uint32_t lane) { return (1U << lane) - 1; }

/// Keys k of a window are first <= k <= last.
struct KeyRange {
  uint32_t first;
  uint32_t last;
  __device__ explicit KeyRange(const Window& window)
      : first(window.low), last(window.low + ((1U << window.bits) - 1)) {}
  __device__ bool holds(uint32_t key) const { return key >= first && key <= last; }
};

}  // namespace fulgur::cuda
