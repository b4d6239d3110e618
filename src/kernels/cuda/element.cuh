#pragma once

// Elements as kernels read and write them. Everything is computed in f32.

#include <cuda_fp16.h>

#include "base/dtype.h"
#include "base/weight.h"

namespace fulgur::cuda {

__device__ inline float load(const float* x) { return *x; }
__device__ inline float load(const Bf16* x) { return to_float(*x); }
__device__ inline void store(float* to, float value) { *to = value; }
__device__ inline void store(Bf16* to, float value) { *to = to_bf16(value); }

/// `value` as it is after one rounding to T.
template <typename T>
__device__ float rounded(float value) {
  T element;
  store(&element, value);
  return load(&element);
}

/// Calls f with an element of the operand's type (a value to take the type of).
template <typename F>
void with_operand(DType dtype, F&& f) {
  if (dtype == DType::kF32) return f(float{});
  return f(Bf16{});
}

/// W[r, c] in any form (base/weight.h), rounded once to f32.
template <WeightForm kForm>
__device__ float weight_at(const Weight& w, int64_t r, int64_t c) {
  const int64_t at = r * w.cols + c;
  if constexpr (kForm == WeightForm::kBf16) {
    return to_float(static_cast<const Bf16*>(w.data)[at]);
  } else if constexpr (kForm == WeightForm::kF16) {
    return __half2float(static_cast<const __half*>(w.data)[at]);
  } else if constexpr (kForm == WeightForm::kF32) {
    return static_cast<const float*>(w.data)[at];
  } else if constexpr (kForm == WeightForm::kFp8) {
    const int64_t blocks = (w.cols + w.block_cols - 1) / w.block_cols;
    const float scale =
        static_cast<const float*>(w.scales)[(w.first_row + r) / w.block_rows * blocks + c / w.block_cols];
    return e4m3_to_float(static_cast<const uint8_t*>(w.data)[at]) * scale;
  } else {
    const uint8_t pair = static_cast<const uint8_t*>(w.data)[at / kNvfp4CodesPerByte];
    const float code = e2m1_to_float(c % 2 == 0 ? pair : pair >> 4);
    const float scale = e4m3_to_float(static_cast<const uint8_t*>(w.scales)[at / kNvfp4Group]);
    return code * scale * static_cast<float>(w.global);
  }
}
/// The same where the form is known when the kernel runs: for the few elements of norms.
__device__ inline float plain_weight_at(const Weight& w, int64_t c) {
  switch (w.form) {
    case WeightForm::kBf16:
      return weight_at<WeightForm::kBf16>(w, 0, c);
    case WeightForm::kF16:
      return weight_at<WeightForm::kF16>(w, 0, c);
    default:
      return weight_at<WeightForm::kF32>(w, 0, c);
  }
}

}  // namespace fulgur::cuda
