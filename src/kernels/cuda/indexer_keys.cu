// A prompt's keys and head weights from its projection kw: LayerNorm, rope, Hadamard, rounding, the page.
//
// Eight lanes have a token, one each: lane l components 32 j + 4 l to 4 l + 3, so that reads of kw are of 16
// bytes, both rotations find their pairs in the lane, and eight lanes write whole sectors of codes. Sums go
// by pairs over a lane's own sixteen, then over the lanes. What a token needs beside kw (its page, its
// angles) was there before the kernel that makes kw began: it is read while that one ends. A block takes half
// a multiprocessor and there are about as many blocks as multiprocessors, so that the successor's have room.
//
// Cost of 8192 tokens, V3.2: 6.3 MB read (from L2, where the projection left them), 3.2 MB written.

#include "kernels/cuda/key_finish.cuh"
#include "kernels/cuda/launch.h"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kLanes = 8;  // of a token
constexpr int kTokens = kThreads / kLanes;
constexpr int kRun = 4;                   // components that lie side by side
constexpr int kSpan = kLanes * kRun;      // from one run of a lane to its next
constexpr int kRuns = kIndexDim / kSpan;  // of a lane
constexpr int kMostHeads = 64;
constexpr int kHeadRuns = kMostHeads / kSpan;
constexpr int kPageTokens = 64;
using Values = float[kRuns * kRun];  // run by run
static_assert(kRopePairs == kSpan);

__device__ inline float4 load_run(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ inline void put_run(float* to, const float4& run) { *reinterpret_cast<float4*>(to) = run; }

/// cos and sin of the pairs in a lane's first two runs.
struct LaneAngles {
  alignas(16) float cos[kRun];
  alignas(16) float sin[kRun];

  __device__ void load(const IndexRows& rows, int position, bool interleaved, int lane) {
    const int64_t row = position * rows.rope_stride;
    if (!interleaved) {
      put_run(cos, load_run(rows.cos + row + kRun * lane));
      put_run(sin, load_run(rows.sin + row + kRun * lane));
      return;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t at = row + half * (kSpan / 2) + 2 * lane;
      *reinterpret_cast<float2*>(cos + 2 * half) = *reinterpret_cast<const float2*>(rows.cos + at);
      *reinterpret_cast<float2*>(sin + 2 * half) = *reinterpret_cast<const float2*>(rows.sin + at);
    }
  }
};

__device__ inline void rotate(Values& v, bool interleaved, const LaneAngles& angles) {
  const auto turn = [&](float& first, float& second, int i) {
    rotate_pair(first, second, angles.cos[i], angles.sin[i]);
  };
  if (interleaved) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) turn(v[2 * i], v[2 * i + 1], i);
  } else {
#pragma unroll
    for (int i = 0; i < kRun; ++i) turn(v[i], v[kRun + i], i);
  }
}

/// A lane's part of the key in `slot` of a page.
__device__ inline void store(Values& v, uint8_t* page, int slot, const KeyArguments& args, int lane) {
  if (!args.rounding.e4m3) {
    auto* to = reinterpret_cast<Bf16*>(page) + slot * args.slot_stride;
#pragma unroll
    for (int i = 0; i < kRuns * kRun; ++i) {
      const int dim = i / kRun * kSpan + kRun * lane + i % kRun;
      to[dim / 2 * args.pair_stride + dim % 2] = to_bf16(v[i]);
    }
    return;
  }
  const float sigma = scale_to_e4m3(v, args.rounding.power_of_two_scales);
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    const float* x = v + run * kRun;
    *reinterpret_cast<uint32_t*>(page + slot * kIndexDim + run * kSpan + kRun * lane) =
        to_e4m3x2(x[0], x[1]) | static_cast<uint32_t>(to_e4m3x2(x[2], x[3])) << 16;
  }
  if (lane == 0) reinterpret_cast<float*>(page + kPageTokens * kIndexDim)[slot] = sigma;
}

__global__ void __launch_bounds__(kThreads, 2) keys_kernel(ProjectedRows projected, KeyArguments keys) {
  __shared__ KeyNorm norm;
  allow_successor();
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kLanes;
  const int first = static_cast<int>(blockIdx.x) * kTokens;
  // The last one may be written more than once.
  const int token = min(first + thread / kLanes, projected.num_tokens - 1);
  const int position = keys.rows.position[token];
  const int64_t table = keys.rows.sequence[token] * keys.rows.page_stride;
  norm.load<kThreads>(keys, thread);
  LaneAngles angles;
  angles.load(keys.rows, position, keys.rounding.rope_interleaved, lane);
  uint8_t* page = keys.keys + keys.rows.pages[table + position / kPageTokens] * keys.page_bytes;
  const float* kw = projected.kw + token * projected.stride + kRun * lane;
  float* head_weights = keys.head_weights + token * keys.head_weight_stride + kRun * lane;
  __syncthreads();
  wait_for_predecessor();

  alignas(16) Values v;
#pragma unroll
  for (int run = 0; run < kRuns; ++run) put_run(v + run * kRun, load_run(kw + run * kSpan));
  float4 weights[kHeadRuns];
#pragma unroll
  for (int run = 0; run < kHeadRuns; ++run)
    if (run * kSpan + kRun * lane < projected.num_heads)
      weights[run] = load_run(kw + kIndexDim + run * kSpan);

  normalize(v);
#pragma unroll
  for (int run = 0; run < kRuns; ++run) {
    const float4 gain = load_run(norm.gain + run * kSpan + kRun * lane);
    const float4 bias = load_run(norm.bias + run * kSpan + kRun * lane);
    float* x = v + run * kRun;
    x[0] = fmaf(x[0], gain.x, bias.x);
    x[1] = fmaf(x[1], gain.y, bias.y);
    x[2] = fmaf(x[2], gain.z, bias.z);
    x[3] = fmaf(x[3], gain.w, bias.w);
  }
  rotate(v, keys.rounding.rope_interleaved, angles);
  if (keys.rounding.hadamard) hadamard(v, lane);
  store(v, page, position % kPageTokens, keys, lane);

#pragma unroll
  for (int run = 0; run < kHeadRuns; ++run) {
    if (run * kSpan + kRun * lane >= projected.num_heads) continue;
    const float4 w = weights[run];
    const float scale = keys.weight_scale;
    put_run(head_weights + run * kSpan, make_float4(w.x * scale, w.y * scale, w.z * scale, w.w * scale));
  }
}

bool aligned(const float* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % sizeof(float4) == 0 && stride % kRun == 0;
}

}  // namespace

bool keys_take(const ProjectedRows& projected, const KeyArguments& keys) {
  return projected.num_heads <= kMostHeads && projected.num_heads % kRun == 0 &&
         aligned(projected.kw, projected.stride) && aligned(keys.head_weights, keys.head_weight_stride) &&
         aligned(keys.rows.cos, keys.rows.rope_stride) && aligned(keys.rows.sin, keys.rows.rope_stride);
}

cudaError_t launch_keys(const ProjectedRows& projected, const KeyArguments& keys, cudaStream_t stream,
                        bool pdl) {
  if (!keys_take(projected, keys)) return cudaErrorInvalidValue;
  const auto blocks = static_cast<unsigned>((projected.num_tokens + kTokens - 1) / kTokens);
  return launch_kernel(keys_kernel, {.blocks = dim3(blocks), .threads = kThreads, .pdl = pdl}, stream,
                       projected, keys);
}

}  // namespace fulgur::cuda
