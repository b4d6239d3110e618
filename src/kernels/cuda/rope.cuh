#pragma once

#include "ops/token_batch.h"

namespace fulgur::cuda {

__device__ inline void rotate_pair(float& first, float& second, float cos, float sin) {
  const float a = first;
  const float b = second;
  first = fmaf(a, cos, -(b * sin));
  second = fmaf(b, cos, a * sin);
}

/// Pair `j` of the `width` rotated components of x, at a position (docs/spec/model.md, section 2).
__device__ inline void rotate_pair(float* x, int width, bool interleaved, const RopeTable& rope,
                                   int32_t position, int j) {
  float& first = x[interleaved ? 2 * j : j];
  float& second = x[interleaved ? 2 * j + 1 : j + width / 2];
  const float cos = rope.cos.row(position)[j];
  const float sin = rope.sin.row(position)[j];
  rotate_pair(first, second, cos, sin);
}

/// All pairs, shared out to the block's threads; x is in shared memory and this thread's share is not yet
/// visible to the others when it returns.
__device__ inline void rotate(float* x, int width, bool interleaved, const RopeTable& rope,
                              int32_t position) {
  for (int j = static_cast<int>(threadIdx.x); j < width / 2; j += static_cast<int>(blockDim.x))
    rotate_pair(x, width, interleaved, rope, position, j);
}

/// The page that holds a position of row `t`'s sequence.
__device__ inline int32_t page_of(const TokenBatch& batch, int64_t t, int32_t position) {
  return batch.pages.row(batch.sequence[t])[position / kPageTokens];
}

}  // namespace fulgur::cuda
