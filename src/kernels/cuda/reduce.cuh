#pragma once

// Sums, maxima and counts over a block or a warp, each in one fixed order. Every thread of it calls them and
// gets the result; blockDim.x is a multiple of 32, at most 1024.

#include <cstdint>

namespace fulgur::cuda {

constexpr int kWarpLanes = 32;
constexpr unsigned kAllLanes = ~0U;

__device__ inline float warp_sum(float value) {
  for (int step = kWarpLanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
__device__ inline float warp_max(float value) {
  for (int step = kWarpLanes / 2; step > 0; step /= 2)
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

/// x plus those of the lanes below.
__device__ inline uint32_t sum_of_lanes_up_to(uint32_t x) {
#pragma unroll
  for (uint32_t step = 1; step < 32; step *= 2) {
    asm volatile(
        "{\n.reg .pred below;\n.reg .b32 other;\n"
        "shfl.sync.up.b32 other|below, %0, %1, 0, -1;\n"
        "@below add.u32 %0, %0, other;\n}\n"
        : "+r"(x)
        : "r"(step));
  }
  return x;
}

/// One value a warp, joined by all.
template <typename T, typename Join>
__device__ T join_warps(T of_warp, Join join) {
  __shared__ T parts[kWarpLanes];
  __syncthreads();  // the last call's readers
  if (threadIdx.x % kWarpLanes == 0) parts[threadIdx.x / kWarpLanes] = of_warp;
  __syncthreads();
  T all = parts[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarpLanes; ++warp) all = join(all, parts[warp]);
  return all;
}
__device__ inline float block_sum(float value) {
  return join_warps(warp_sum(value), [](float a, float b) { return a + b; });
}
__device__ inline float block_max(float value) {
  return join_warps(warp_max(value), [](float a, float b) { return fmaxf(a, b); });
}

/// How many threads before this one say yes, and how many do in all.
struct Count {
  int before;
  int total;
};
__device__ inline Count block_count(bool yes) {
  __shared__ int warps[kWarpLanes];
  const unsigned votes = __ballot_sync(kAllLanes, yes);
  const unsigned lane = threadIdx.x % kWarpLanes;
  const unsigned own = threadIdx.x / kWarpLanes;
  __syncthreads();
  if (lane == 0) warps[own] = __popc(votes);
  __syncthreads();
  Count count{__popc(votes & ((1U << lane) - 1)), 0};
  for (unsigned warp = 0; warp < blockDim.x / kWarpLanes; ++warp) {
    if (warp < own) count.before += warps[warp];
    count.total += warps[warp];
  }
  return count;
}

}  // namespace fulgur::cuda
