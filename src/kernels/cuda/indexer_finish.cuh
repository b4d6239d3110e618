#pragma once

// What follows the products: a key's or a query head's 128 components, by one warp. Lane l holds components
// l, l + 32, l + 64 and l + 96, so that a half-split rotation needs no neighbour.

#include <cstdint>

#include "kernels/cuda/indexer_prepare_tuned.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/warp_mma.cuh"

namespace fulgur::cuda {

constexpr int kParts = kIndexDim / kWarpLanes;  // components a lane
constexpr int kRopePairs = kIndexRope / 2;
constexpr float kKeyNormEps = 1e-6F;
constexpr float kLeastKeyAmax = 1e-4F;
constexpr float kLargestE4m3 = 448;

/// LayerNorm: population variance, two passes, f32.
__device__ inline void layer_norm(float (&v)[kParts], const float* gain, const float* bias, int lane) {
  const float mean = warp_sum((v[0] + v[1]) + (v[2] + v[3])) * (1.0F / kIndexDim);
  float squares = 0;
#pragma unroll
  for (float& x : v) {
    x -= mean;
    squares = fmaf(x, x, squares);
  }
  const float scale = 1.0F / sqrtf(warp_sum(squares) * (1.0F / kIndexDim) + kKeyNormEps);
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    const int dim = lane + kWarpLanes * i;
    v[i] = fmaf(v[i] * scale, gain[dim], bias[dim]);
  }
}

/// Rotates the first 64 components; cos and sin [32] of the position.
__device__ inline void rotate(float (&v)[kParts], bool interleaved, const float* cos, const float* sin,
                              int lane) {
  if (!interleaved) {
    const float a = v[0];
    const float b = v[1];
    v[0] = fmaf(a, cos[lane], -(b * sin[lane]));
    v[1] = fmaf(b, cos[lane], a * sin[lane]);
    return;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float other = __shfl_xor_sync(kAllLanes, v[i], 1);
    const int pair = (lane + kWarpLanes * i) / 2;
    const float turned = other * sin[pair];
    v[i] = fmaf(v[i], cos[pair], lane % 2 == 0 ? -turned : turned);
  }
}

/// Times the Walsh-Hadamard matrix of order 128 over sqrt(128), natural order.
__device__ inline void hadamard(float (&v)[kParts], int lane) {
#pragma unroll
  for (int bit = 1; bit < kWarpLanes; bit *= 2) {
#pragma unroll
    for (float& x : v) {
      const float other = __shfl_xor_sync(kAllLanes, x, bit);
      x = (lane & bit) != 0 ? other - x : x + other;
    }
  }
  const float a = v[0] + v[1];
  const float b = v[0] - v[1];
  const float c = v[2] + v[3];
  const float d = v[2] - v[3];
  constexpr float kScale = 0.08838834764831845F;  // 128^-1/2
  v[0] = (a + c) * kScale;
  v[1] = (b + d) * kScale;
  v[2] = (a - c) * kScale;
  v[3] = (b - d) * kScale;
}

/// The scale of a group whose largest magnitude is amax.
__device__ inline float e4m3_scale(float amax, bool power_of_two) {
  const float scale = fmaxf(amax, kLeastKeyAmax) / kLargestE4m3;
  if (!power_of_two) return scale;
  constexpr uint32_t kMantissa = 0x7fffff;
  return __uint_as_float((__float_as_uint(scale) + kMantissa) & ~kMantissa);
}

/// The codes of v, in codes[i], and their scale.
__device__ inline float quantize(const float (&v)[kParts], bool power_of_two, uint8_t (&codes)[kParts]) {
  const float amax = warp_max(fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3]))));
  const float sigma = e4m3_scale(amax, power_of_two);
#pragma unroll
  for (int i = 0; i < kParts; i += 2) {
    const uint16_t pair = to_e4m3x2(v[i] / sigma, v[i + 1] / sigma);
    codes[i] = static_cast<uint8_t>(pair & 0xffU);
    codes[i + 1] = static_cast<uint8_t>(pair >> 8);
  }
  return sigma;
}

}  // namespace fulgur::cuda
