#pragma once

// A query head of a prompt after its product: to q and into the head weight, by the four threads that hold a
// token's 128 components as the tensor cores leave them (prompt_component() in indexer_tiles.h).

#include "kernels/cuda/indexer_finish.cuh"

namespace fulgur::cuda {

constexpr int kRun = 8;   // components that lie side by side
constexpr int kRuns = 4;  // of a thread and token, 32 components apart

/// A token's 32 components in a thread: [run][component of the run].
using Components = float[kRuns][kRun];

/// cos and sin that a thread of a token needs: of its components' pairs, for both layouts eight.
struct Angles {
  alignas(16) float cos[kRun];
  alignas(16) float sin[kRun];

  __device__ void load(const IndexRows& rows, int position, bool interleaved, int quad) {
    constexpr int kHalf = kRun / 2;
    const int64_t row = position * rows.rope_stride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = interleaved ? half * 16 + quad * kHalf : quad * kRun + half * kHalf;
      *reinterpret_cast<float4*>(cos + half * kHalf) = *reinterpret_cast<const float4*>(rows.cos + row + at);
      *reinterpret_cast<float4*>(sin + half * kHalf) = *reinterpret_cast<const float4*>(rows.sin + row + at);
    }
  }
};

/// Rope of the first two runs: components 8 quad + c and 32 + 8 quad + c.
__device__ inline void rotate(Components& x, bool interleaved, const Angles& angles) {
  const auto turn = [&](float& first, float& second, int i) {
    rotate_pair(first, second, angles.cos[i], angles.sin[i]);
  };
  if (interleaved) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) turn(x[i / 4][i % 4 * 2], x[i / 4][i % 4 * 2 + 1], i);
  } else {
#pragma unroll
    for (int i = 0; i < kRun; ++i) turn(x[0][i], x[1][i], i);
  }
}

/// Times the Walsh-Hadamard matrix of order 128 over sqrt(128), by the four threads of a token.
__device__ inline void hadamard(Components& x, int quad) {
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
#pragma unroll
    for (int bit = 1; bit < kRun; bit *= 2) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        if ((i & bit) != 0) continue;
        const float a = x[run][i];
        const float b = x[run][i + bit];
        x[run][i] = a + b;
        x[run][i + bit] = a - b;
      }
    }
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
#pragma unroll
      for (float& v : x[run]) {
        const float other = __shfl_xor_sync(kAllLanes, v, bit);
        v = (quad & bit) != 0 ? other - v : v + other;
      }
    }
  }
  constexpr float kScale = 0.08838834764831845F;  // 128^-1/2
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const float a = x[0][i] + x[1][i];
    const float b = x[0][i] - x[1][i];
    const float c = x[2][i] + x[3][i];
    const float d = x[2][i] - x[3][i];
    x[0][i] = (a + c) * kScale;
    x[1][i] = (b + d) * kScale;
    x[2][i] = (a - c) * kScale;
    x[3][i] = (b - d) * kScale;
  }
}

/// A token's head to q and into its head weight, by four threads.
__device__ inline void finish(Components& x, const QueryArguments& args, int token, int head,
                              const Angles& angles, float head_weight, int quad) {
  const bool stored = token < args.num_tokens;
  rotate(x, args.rounding.rope_interleaved, angles);
  if (args.rounding.hadamard) hadamard(x, quad);
  const int64_t at = token * args.q_stride + int64_t{head} * kIndexDim + quad * kRun;
  if (!args.rounding.e4m3) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      uint32_t words[kRun / 2];
#pragma unroll
      for (int i = 0; i < kRun; i += 2) words[i / 2] = to_bf16x2(x[run][i], x[run][i + 1]);
      if (stored) {
        *reinterpret_cast<uint4*>(static_cast<Bf16*>(args.q) + at + run * kWarpLanes) =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
    return;
  }
  float amax = 0;
#pragma unroll
  for (const auto& run : x)
#pragma unroll
    for (const float v : run) amax = fmaxf(amax, fabsf(v));
  amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, 1));
  amax = fmaxf(amax, __shfl_xor_sync(kAllLanes, amax, 2));
  const float sigma = e4m3_scale(amax, args.rounding.power_of_two_scales);
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    divide(x[run], sigma);
    uint32_t words[2];
#pragma unroll
    for (int i = 0; i < kRun; i += 4) {
      words[i / 4] = to_e4m3x2(x[run][i], x[run][i + 1]) |
                     static_cast<uint32_t>(to_e4m3x2(x[run][i + 2], x[run][i + 3])) << 16;
    }
    if (stored) {
      *reinterpret_cast<uint2*>(static_cast<uint8_t*>(args.q) + at + run * kWarpLanes) =
          make_uint2(words[0], words[1]);
    }
  }
  if (stored && quad == 0) args.head_weights[token * args.head_weight_stride + head] = head_weight * sigma;
}

}  // namespace fulgur::cuda
