#pragma once

// The other operand of products with e4m3 weights, made of bf16 values in groups of 128 columns, each with a
// scale. Up to 128 tokens it is f16: a power of two is taken out, so that all within 2^-28 of the group's
// largest stay exact. For prompts it is e4m3, as other engines have it for any number of tokens.

#include "kernels/cuda/indexer_finish.cuh"
#include "kernels/cuda/indexer_tiles.h"

namespace fulgur::cuda {

constexpr int kGroupLanes = 16;  // of a group, where a lane has a piece of eight columns

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

/// The mma's A of four codes of a row: its columns t and t + 4 of pairs.
__device__ inline void weight_fragment(uint32_t& low, uint32_t& high, uint32_t codes) {
  low = e4m3x2_to_f16x2(static_cast<uint16_t>(codes));
  high = e4m3x2_to_f16x2(static_cast<uint16_t>(codes >> 16));
}

__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000U); }

/// The largest magnitude of a token's group, which kLanes lanes hold.
template <int kLanes, int kPieces>
__device__ inline float latent_amax(const uint4 (&pieces)[kPieces]) {
  static_assert(kLanes * kPieces * 8 == kQueryGroup);
  float amax = 0;
#pragma unroll
  for (const uint4& piece : pieces)
    for (const uint32_t pair : {piece.x, piece.y, piece.z, piece.w})
      amax = fmaxf(amax, fmaxf(fabsf(low_bf16(pair)), fabsf(high_bf16(pair))));
#pragma unroll
  for (int step = kLanes / 2; step > 0; step /= 2) amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, step));
  return amax;
}

/// Makes a token's group f16; returns the scale that they have to be multiplied by.
template <int kLanes, int kPieces>
__device__ inline float round_latents(uint4 (&pieces)[kPieces]) {
  // The group's largest becomes 2^14 to 2^15. Its exponent is kept where the scale and its inverse are
  // normal.
  constexpr uint32_t kBias = 127;
  constexpr uint32_t kLeast = 27;
  constexpr uint32_t kMost = 250;
  constexpr uint32_t kTarget = 14;
  const float amax = latent_amax<kLanes>(pieces);
  const uint32_t exponent = min(max(__float_as_uint(amax) >> 23, kLeast), kMost);
  const float inverse = __uint_as_float((2 * kBias + kTarget - exponent) << 23);
  const auto round = [&](uint32_t& pair) {
    pair = to_f16x2(low_bf16(pair) * inverse, high_bf16(pair) * inverse);
  };
#pragma unroll
  for (uint4& piece : pieces) round(piece.x), round(piece.y), round(piece.z), round(piece.w);
  return __uint_as_float((exponent - kTarget) << 23);
}

/// A lane's piece of a group (sixteen lanes hold it) in f16, where the batch kernel reads it
/// (batch_latent_offset), and the group's scale.
__device__ inline void lay_out_piece(const LatentArguments& args, int token, int group, int piece) {
  const int source = min(token, args.num_tokens - 1);  // rows that fill up a tile are never stored
  uint4 values[1] = {reinterpret_cast<const uint4*>(
      args.q_latent + source * args.q_latent_stride)[group * kGroupLanes + piece]};
  const float scale = round_latents<kGroupLanes>(values);
  const int groups = args.q_rank / kQueryGroup;
  const int tile = token / args.tile_tokens;
  const int row = token % args.tile_tokens;
  uint8_t* to =
      args.operand + static_cast<int64_t>(tile * groups + group) * args.tile_tokens * 2 * kQueryGroup;
  const uint32_t words[4] = {values[0].x, values[0].y, values[0].z, values[0].w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    *reinterpret_cast<uint32_t*>(to + batch_latent_offset(args.tile_tokens, row, 4 * piece + i)) = words[i];
  }
  if (piece == 0) args.scales[(tile * groups + group) * args.tile_tokens + row] = scale;
}

}  // namespace fulgur::cuda
