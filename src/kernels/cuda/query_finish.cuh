#pragma once

// A query head after its product: to q and into the head weight, by one warp.

#include "kernels/cuda/indexer_finish.cuh"

namespace fulgur::cuda {

/// What a head of a token needs beside its product, in shared memory: the angles and the head weight as it
/// comes in. Copies: wait_for_copies() or arrive_with_copies() ends them.
struct alignas(16) HeadInputs {
  float cos[kRopePairs];
  float sin[kRopePairs];
  float weight;
  float padding[3];

  static constexpr int kPieces = 2 * kRopePairs / 4;
  /// Four of the angles, by one of kPieces lanes side by side. Through L1: tokens at the same position would
  /// else queue for its two lines of L2, every head's block for each of them.
  __device__ void copy_angles(const IndexRows& rows, int position, int piece) {
    const int i = piece % (kPieces / 2) * 4;
    const int64_t at = position * rows.rope_stride + i;
    const bool of_cos = piece < kPieces / 2;
    copy_cached_piece((of_cos ? cos : sin) + i, (of_cos ? rows.cos : rows.sin) + at);
  }
  __device__ void copy_weight(const QueryArguments& args, int64_t token, int head) {
    copy_word(&weight, args.head_weights + token * args.head_weight_stride + head);
  }
  /// All angles, by one warp.
  __device__ void load_angles(const IndexRows& rows, int position, int lane) {
    const int64_t at = position * rows.rope_stride + lane;
    copy_word(cos + lane, rows.cos + at);
    copy_word(sin + lane, rows.sin + at);
  }
};

/// v: a head's 128 components; head_weight as it comes in.
__device__ inline void finish_head(float (&v)[kParts], const QueryArguments& args, int64_t token, int head,
                                   const HeadInputs& inputs, float head_weight, int lane) {
  rotate(v, args.rounding.rope_interleaved, inputs.cos, inputs.sin, lane);
  if (args.rounding.hadamard) hadamard(v, lane);
  const int64_t at = token * args.q_stride + int64_t{head} * kIndexDim + lane;
  if (!args.rounding.e4m3) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) static_cast<Bf16*>(args.q)[at + i * kWarpLanes] = to_bf16(v[i]);
    return;
  }
  uint8_t codes[kParts];
  const float sigma = quantize(v, args.rounding.power_of_two_scales, codes);
#pragma unroll
  for (int i = 0; i < kParts; ++i) static_cast<uint8_t*>(args.q)[at + i * kWarpLanes] = codes[i];
  if (lane == 0) args.head_weights[token * args.head_weight_stride + head] = head_weight * sigma;
}

}  // namespace fulgur::cuda
