#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace fulgur::test {

/// simd_probe.cc of one instruction set.
struct SimdProbe {
  void (*exp)(const float* x, int64_t size, float* out);
  void (*sigmoid)(const float* x, int64_t size, float* out);
  void (*silu)(const float* x, int64_t size, float* out);
  void (*to_bf16)(const float* x, int64_t size, Bf16* out);
  void (*from_e4m3)(const uint8_t* codes, Bf16* out);  // all 256 codes
  /// 8 x 8 elements of two bytes; strides in bytes.
  void (*transpose_pairs)(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride);
  void (*sums)(const float* x, int64_t size, float* out);   // out[i]: the sum of the lanes of the i-th vector
  void (*sums4)(const float* x, int64_t size, float* out);  // the same, four at once
  /// TopK::select: `scores` has room for `most`, a multiple of 64, and scratch for four times as many floats.
  bool (*top_k)(float* scores, int64_t n, int64_t most, int64_t k, float* scratch, int32_t* best);
  int lanes;
};

}  // namespace fulgur::test
