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

  /// By one thread, once the predecessor has ended.
  __device__ void copy(const QueryArguments& args, int64_t token, int head) {
    constexpr int kPieceFloats = 4;
    const int64_t at = args.rows.position[token] * args.rows.rope_stride;
#pragma unroll
    for (int i = 0; i < kRopePairs; i += kPieceFloats) {
      copy_piece(cos + i, args.rows.cos + at + i);
      copy_piece(sin + i, args.rows.sin + at + i);
    }
    if (args.rounding.e4m3) copy_word(&weight, args.head_weights + token * args.head_weight_stride + head);
  }
  /// The angles alone, by one warp.
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
