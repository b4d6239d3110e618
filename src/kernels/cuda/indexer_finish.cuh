#pragma once

// What follows the products: a key's or a query head's 128 components, by a warp or a part of one (kLanes).
// Unless said otherwise, lane l holds components l, l + kLanes, l + 2 kLanes and so on, so that a half-split
// rotation needs no neighbour. Sums and maxima go through the lanes' own first, by pairs.

#include <cstdint>

#include "kernels/cuda/indexer_prepare_tuned.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/warp_mma.cuh"

namespace fulgur::cuda {

constexpr int kParts = kIndexDim / kWarpLanes;  // components a lane of a whole warp
constexpr int kRopePairs = kIndexRope / 2;
constexpr float kKeyNormEps = 1e-6F;
constexpr float kLeastKeyAmax = 1e-4F;

/// join over the lanes that share a key or head, each with kCount values.
template <int kCount, typename Join>
__device__ inline float join_lanes(const float (&v)[kCount], Join join) {
  float parts[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) parts[i] = v[i];
#pragma unroll
  for (int step = 1; step < kCount; step *= 2)
#pragma unroll
    for (int i = 0; i < kCount; i += 2 * step) parts[i] = join(parts[i], parts[i + step]);
#pragma unroll
  for (int step = kIndexDim / kCount / 2; step > 0; step /= 2)
    parts[0] = join(parts[0], __shfl_xor_sync(kAllLanes, parts[0], step));
  return parts[0];
}

/// LayerNorm before gain and bias: population variance, two passes, f32.
template <int kCount>
__device__ inline void normalize(float (&v)[kCount]) {
  const auto add = [](float a, float b) { return a + b; };
  const float mean = join_lanes(v, add) * (1.0F / kIndexDim);
  float squares[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    v[i] -= mean;
    squares[i] = v[i] * v[i];
  }
  const float variance = join_lanes(squares, add) * (1.0F / kIndexDim) + kKeyNormEps;
  float scale = rsqrtf(variance);
  scale = fmaf(scale, fmaf(-0.5F * variance * scale, scale, 0.5F), scale);  // to the last bit or two
#pragma unroll
  for (float& x : v) x *= scale;
}
template <int kCount>
__device__ inline void layer_norm(float (&v)[kCount], const float* gain, const float* bias, int lane) {
  constexpr int kLanes = kIndexDim / kCount;
  normalize(v);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int dim = lane + kLanes * i;
    v[i] = fmaf(v[i], gain[dim], bias[dim]);
  }
}

/// Rotates the first 64 components; cos and sin [32] of the position.
template <int kCount>
__device__ inline void rotate(float (&v)[kCount], bool interleaved, const float* cos, const float* sin,
                              int lane) {
  constexpr int kLanes = kIndexDim / kCount;
  constexpr int kHalf = kRopePairs / kLanes;
  if (!interleaved) {
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const int pair = lane + kLanes * i;
      rotate_pair(v[i], v[i + kHalf], cos[pair], sin[pair]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 2 * kHalf; ++i) {
    const float other = __shfl_xor_sync(kAllLanes, v[i], 1);
    const int pair = (lane + kLanes * i) / 2;
    const float turned = other * sin[pair];
    v[i] = fmaf(v[i], cos[pair], lane % 2 == 0 ? -turned : turned);
  }
}

/// Times the Walsh-Hadamard matrix of order 128 over sqrt(128), natural order. Any bit of a component's index
/// may be one of the lane's or of i.
template <int kCount>
__device__ inline void hadamard(float (&v)[kCount], int lane) {
#pragma unroll
  for (int bit = 1; bit < kIndexDim / kCount; bit *= 2) {
#pragma unroll
    for (float& x : v) {
      const float other = __shfl_xor_sync(kAllLanes, x, bit);
      x = (lane & bit) != 0 ? other - x : x + other;
    }
  }
#pragma unroll
  for (int bit = 1; bit < kCount; bit *= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if ((i & bit) != 0) continue;
      const float a = v[i];
      const float b = v[i + bit];
      v[i] = a + b;
      v[i + bit] = a - b;
    }
  }
  constexpr float kScale = 0.08838834764831845F;  // 128^-1/2
#pragma unroll
  for (float& x : v) x *= kScale;
}

/// The scale of a group whose largest magnitude is amax.
__device__ inline float e4m3_scale(float amax, bool power_of_two) {
  constexpr float kInverse = 1.0F / kMostE4m3;
  const float magnitude = fmaxf(amax, kLeastKeyAmax);
  const float quotient = magnitude * kInverse;
  const float scale = fmaf(fmaf(-quotient, kMostE4m3, magnitude), kInverse, quotient);  // as divide() does
  if (!power_of_two) return scale;
  constexpr uint32_t kMantissa = 0x7fffff;
  return __uint_as_float((__float_as_uint(scale) + kMantissa) & ~kMantissa);
}

/// Divides by a scale, rounded to nearest: a scale is a normal number, so that the few lines of
/// the division that treat others (a call, by the compiler) aren't needed.
template <int kCount>
__device__ inline void divide(float (&v)[kCount], float sigma) {
  float inverse;
  asm("rcp.approx.f32 %0, %1;" : "=f"(inverse) : "f"(sigma));
  inverse = fmaf(inverse, fmaf(-sigma, inverse, 1.0F), inverse);
#pragma unroll
  for (float& x : v) {
    const float quotient = x * inverse;
    x = fmaf(fmaf(-quotient, sigma, x), inverse, quotient);
  }
}

/// The scale of v, which is divided by it.
template <int kCount>
__device__ inline float scale_to_e4m3(float (&v)[kCount], bool power_of_two) {
  float magnitudes[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) magnitudes[i] = fabsf(v[i]);
  const float amax = join_lanes(magnitudes, [](float a, float b) { return fmaxf(a, b); });
  const float sigma = e4m3_scale(amax, power_of_two);
  divide(v, sigma);
  return sigma;
}
/// The codes of v, in codes[i], and their scale; v is divided by it.
template <int kCount>
__device__ inline float quantize(float (&v)[kCount], bool power_of_two, uint8_t (&codes)[kCount]) {
  const float sigma = scale_to_e4m3(v, power_of_two);
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const uint16_t pair = to_e4m3x2(v[i], v[i + 1]);
    codes[i] = static_cast<uint8_t>(pair & 0xffU);
    codes[i + 1] = static_cast<uint8_t>(pair >> 8);
  }
  return sigma;
}

}  // namespace fulgur::cuda
