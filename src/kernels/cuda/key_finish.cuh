#pragma once

// From one token's kw to its key in the cache and its head weights.

#include "base/dtype.h"
#include "kernels/cuda/indexer_finish.cuh"

namespace fulgur::cuda {

// What keys need beside kw, in shared memory: read while the product runs, since a position, its page and its
// angles are loads that wait for one another.
struct KeyNorm {
  alignas(16) float gain[kIndexDim];
  alignas(16) float bias[kIndexDim];

  /// By kThreads threads, once the predecessor has ended. Visible to the block after its next barrier.
  template <int kThreads>
  __device__ void load(const KeyArguments& args, int thread) {
#pragma unroll
    for (int i = 0; i < (kIndexDim + kThreads - 1) / kThreads; ++i) {
      const int dim = thread + i * kThreads;
      if (dim >= kIndexDim) break;
      if (args.norm_is_bf16) {
        gain[dim] = to_float(static_cast<const Bf16*>(args.gain)[dim]);
        bias[dim] = to_float(static_cast<const Bf16*>(args.bias)[dim]);
      } else {
        gain[dim] = static_cast<const float*>(args.gain)[dim];
        bias[dim] = static_cast<const float*>(args.bias)[dim];
      }
    }
  }
};
struct KeyPlace {
  float cos[kRopePairs];
  float sin[kRopePairs];
  uint8_t* page;
  int slot;

  /// Likewise, by kLanes lanes, of a token at a position of a sequence.
  template <int kLanes>
  __device__ void load(const KeyArguments& args, int position, int sequence, int lane) {
    constexpr int kPageTokens = 64;
#pragma unroll
    for (int pair = lane; pair < kRopePairs; pair += kLanes) {
      cos[pair] = args.rows.cos[position * args.rows.rope_stride + pair];
      sin[pair] = args.rows.sin[position * args.rows.rope_stride + pair];
    }
    if (lane == 0) {
      page = args.keys +
             args.rows.pages[sequence * args.rows.page_stride + position / kPageTokens] * args.page_bytes;
      slot = position % kPageTokens;
    }
  }
};

/// The key, by a warp or half of one. kw [128].
template <int kLanes>
__device__ inline void finish_key(const float* kw, const KeyNorm& norm, const KeyPlace& place,
                                  const KeyArguments& args, int lane) {
  constexpr int kPageCodes = 64 * kIndexDim;
  constexpr int kCount = kIndexDim / kLanes;
  float v[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) v[i] = kw[lane + kLanes * i];
  layer_norm(v, norm.gain, norm.bias, lane);
  rotate(v, args.rounding.rope_interleaved, place.cos, place.sin, lane);
  if (args.rounding.hadamard) hadamard(v, lane);
  if (args.rounding.e4m3) {
    uint8_t codes[kCount];
    const float sigma = quantize(v, args.rounding.power_of_two_scales, codes);
    uint8_t* to = place.page + place.slot * kIndexDim + lane;
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[kLanes * i] = codes[i];
    if (lane == 0) reinterpret_cast<float*>(place.page + kPageCodes)[place.slot] = sigma;
  } else {
    auto* to = reinterpret_cast<Bf16*>(place.page) + place.slot * args.slot_stride;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int dim = lane + kLanes * i;
      to[dim / 2 * args.pair_stride + dim % 2] = to_bf16(v[i]);
    }
  }
}

}  // namespace fulgur::cuda
