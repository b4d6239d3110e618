#pragma once

// The other operand of products with e4m3 weights: bf16 values rounded to f16 in groups of 128 columns, each
// with a scale (QueryOperand says how).

#include "kernels/cuda/indexer_finish.cuh"
#include "kernels/cuda/indexer_tiles.h"

namespace fulgur::cuda {

/// A lane's quarter of a group of 128 columns of its token: two steps of sixteen columns.
struct LatentQuarter {
  uint4 pieces[4];  // of eight columns, bf16; then f16

  __device__ void load(const Bf16* group, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = i / 2 * kQueryStep + piece_offset(lane) + i % 2 * 8;
      pieces[i] = *reinterpret_cast<const uint4*>(group + column);
    }
  }
};

__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000U); }

/// Rounds a token's group, which kLanes lanes hold; returns the scale that its f16 have to be multiplied by.
template <int kLanes, int kPieces>
__device__ inline float round_latents(uint4 (&pieces)[kPieces], const QueryArguments& args) {
  static_assert(kLanes * kPieces * 8 == kQueryGroup);
  const auto for_each_pair = [&](auto&& f) {
#pragma unroll
    for (uint4& piece : pieces) f(piece.x), f(piece.y), f(piece.z), f(piece.w);
  };
  float amax = 0;
  for_each_pair(
      [&](uint32_t pair) { amax = fmaxf(amax, fmaxf(fabsf(low_bf16(pair)), fabsf(high_bf16(pair)))); });
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, step));
  if (args.operand == QueryOperand::kE4m3) {
    const float sigma = e4m3_scale(amax, args.rounding.power_of_two_scales);
    for_each_pair([&](uint32_t& pair) {
      pair = e4m3x2_to_f16x2(to_e4m3x2(low_bf16(pair) / sigma, high_bf16(pair) / sigma));
    });
    return sigma;
  }
  // The group's largest becomes 2^14 to 2^15. Its exponent is kept where the scale and its inverse are
  // normal.
  constexpr uint32_t kBias = 127;
  constexpr uint32_t kLeast = 27;
  constexpr uint32_t kMost = 250;
  constexpr uint32_t kTarget = 14;
  const uint32_t exponent = min(max(__float_as_uint(amax) >> 23, kLeast), kMost);
  const float inverse = __uint_as_float((2 * kBias + kTarget - exponent) << 23);
  for_each_pair(
      [&](uint32_t& pair) { pair = to_f16x2(low_bf16(pair) * inverse, high_bf16(pair) * inverse); });
  return __uint_as_float((exponent - kTarget) << 23);
}

}  // namespace fulgur::cuda
