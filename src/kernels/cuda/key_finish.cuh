#pragma once

// From one token's kw to its key in the cache and its head weights.

#include "base/dtype.h"
#include "kernels/cuda/indexer_finish.cuh"

namespace fulgur::cuda {

/// What a token's key needs beside kw, in shared memory: read while the product runs, since a position, its
/// page and its angles are loads that wait for one another.
struct KeyInputs {
  float gain[kIndexDim];
  float bias[kIndexDim];
  float cos[kRopePairs];
  float sin[kRopePairs];
  uint8_t* page;
  int slot;
};

/// By one warp, once the predecessor has ended. Visible to the block after its next barrier.
__device__ inline void load_key_inputs(KeyInputs& inputs, const KeyArguments& args, int token, int lane) {
  constexpr int kPageTokens = 64;
  const int position = args.rows.position[token];
  const int sequence = args.rows.sequence[token];
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    const int dim = lane + kWarpLanes * i;
    if (args.norm_is_bf16) {
      inputs.gain[dim] = to_float(static_cast<const Bf16*>(args.gain)[dim]);
      inputs.bias[dim] = to_float(static_cast<const Bf16*>(args.bias)[dim]);
    } else {
      inputs.gain[dim] = static_cast<const float*>(args.gain)[dim];
      inputs.bias[dim] = static_cast<const float*>(args.bias)[dim];
    }
  }
  inputs.cos[lane] = args.rows.cos[position * args.rows.rope_stride + lane];
  inputs.sin[lane] = args.rows.sin[position * args.rows.rope_stride + lane];
  if (lane == 0) {
    const int page = args.rows.pages[sequence * args.rows.page_stride + position / kPageTokens];
    inputs.page = args.keys + page * args.page_bytes;
    inputs.slot = position % kPageTokens;
  }
}

/// The key, by one warp. kw [128] and `inputs` in shared memory.
__device__ inline void finish_key(const float* kw, const KeyInputs& inputs, const KeyArguments& args,
                                  int lane) {
  constexpr int kPageCodes = 64 * kIndexDim;
  float v[kParts];
#pragma unroll
  for (int i = 0; i < kParts; ++i) v[i] = kw[lane + kWarpLanes * i];
  layer_norm(v, inputs.gain, inputs.bias, lane);
  rotate(v, args.rounding.rope_interleaved, inputs.cos, inputs.sin, lane);
  if (args.rounding.hadamard) hadamard(v, lane);
  if (args.rounding.e4m3) {
    uint8_t codes[kParts];
    const float sigma = quantize(v, args.rounding.power_of_two_scales, codes);
    uint8_t* to = inputs.page + inputs.slot * kIndexDim;
#pragma unroll
    for (int i = 0; i < kParts; ++i) to[lane + kWarpLanes * i] = codes[i];
    if (lane == 0) reinterpret_cast<float*>(inputs.page + kPageCodes)[inputs.slot] = sigma;
  } else {
    auto* to = reinterpret_cast<Bf16*>(inputs.page) + inputs.slot * args.slot_stride;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      const int dim = lane + kWarpLanes * i;
      to[dim / 2 * args.pair_stride + dim % 2] = to_bf16(v[i]);
    }
  }
}

}  // namespace fulgur::cuda
