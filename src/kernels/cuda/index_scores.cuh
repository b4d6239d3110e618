#pragma once

// The arithmetic of an index score on the tensor cores, for every tuned kernel that needs one:
//
//   score[s] = scale[s] * sum_h w[h] * max(0, q[h] . k[s])
//
// A warpgroup takes a page: 64 keys as A in registers, all heads of a query as B in shared memory
// (index_tile.h), four products of 32 components one after the other. A thread then
// has two keys (rows lane / 4 and + 8 of its warp's 16) and of each a quarter of the heads (2q, 2q + 1 of
// every eight, q = lane % 4): it sums even and odd ones in a chain each, adds the two, and the four threads
// of a key add theirs. No sum crosses keys or queries, so a score depends on its query row and its key alone.
//
// Cost of a page and query: 64 * heads * 128 multiply-adds (128 cycles at 64 heads), and a maximum and an FMA
// for each of 64 * heads sums (96 cycles of the multiprocessor's FP32 and integer lanes).

#include "kernels/cuda/index_tile.h"
#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/wgmma.cuh"

namespace fulgur::cuda {

constexpr int kPageBytes = static_cast<int>(kIndexPageBytes);

/// A thread's part of A: [step][register].
struct KeyFragment {
  uint32_t words[kProductSteps][4];
};

/// The key rows of a thread within a page: this and 8 more.
__device__ inline int key_row() {
  return static_cast<int>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
}

/// Where a thread finds the first of its share of a page's keys, in bytes: worked out once. The second chunk
/// is the other half's: 64 bytes before or behind.
__device__ inline uint32_t key_place() {
  const int row = key_row();
  auto place =
      static_cast<uint32_t>(row * kKeyBytes + first_chunk(row, static_cast<int>(threadIdx.x % 4)) * 16);
  asm volatile("" : "+r"(place));
  return place;
}

__device__ inline void load_keys(const uint8_t* page, uint32_t place, KeyFragment& keys) {
  const bool odd = (place & 64) != 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint8_t* bytes = page + 8 * half * kKeyBytes;
    const uint4 a = *reinterpret_cast<const uint4*>(bytes + place);
    const uint4 b = *reinterpret_cast<const uint4*>(bytes + (place ^ 64));
    // Written out: as selections of words, ptxas puts them between the products and then waits for each.
    const uint4 lower = odd ? b : a;  // chunk `quad`
    const uint4 upper = odd ? a : b;  // chunk `quad` + 4
    keys.words[0][half] = lower.x;
    keys.words[1][half] = lower.y;
    keys.words[2][half] = lower.z;
    keys.words[3][half] = lower.w;
    keys.words[0][half + 2] = upper.x;
    keys.words[1][half + 2] = upper.y;
    keys.words[2][half + 2] = upper.z;
    keys.words[3][half + 2] = upper.w;
  }
#pragma unroll
  for (auto& step : keys.words) {
#pragma unroll
    for (uint32_t& word : step) asm volatile("" : "+r"(word)::"memory");
  }
}

/// The scale of key `row` of a page.
__device__ inline float load_scale(const uint8_t* page, int row) {
  return reinterpret_cast<const float*>(page + kPageKeys * kKeyBytes)[row];
}

/// Writes 16 bytes of a query (chunk `chunk` of head `head`) where B wants them.
__device__ inline void store_query_chunk(uint8_t* to, int head, int chunk, const uint4& value) {
  *reinterpret_cast<uint32_t*>(to + query_word_offset(head, chunk, 0)) = value.x;
  *reinterpret_cast<uint32_t*>(to + query_word_offset(head, chunk, 1)) = value.y;
  *reinterpret_cast<uint32_t*>(to + query_word_offset(head, chunk, 2)) = value.z;
  *reinterpret_cast<uint32_t*>(to + query_word_offset(head, chunk, 3)) = value.w;
}

/// sums = A B^T, begun: wgmma_wait<0>() ends it. `query` is swizzled_operand() of B.
template <int kHeads>
__device__ inline void begin_products(const KeyFragment& keys, uint64_t query, float (&sums)[kHeads / 2]) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < kProductSteps; ++step) {
    const uint64_t b = query + query_step_offset(step) / 16;  // addresses there are in 16 bytes
    wgmma_e4m3(sums, keys.words[step], b, step > 0 ? 1 : 0);
  }
  wgmma_commit();
}

/// The head weights of a thread's sums: 2q and 2q + 1 of every eight.
template <int kHeads>
struct HeadWeights {
  float2 pairs[kHeads / 8];
};
template <int kHeads>
__device__ inline HeadWeights<kHeads> load_head_weights(const float* head_weights) {
  HeadWeights<kHeads> weights;
  const int quad = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int j = 0; j < kHeads / 8; ++j) {
    weights.pairs[j] = *reinterpret_cast<const float2*>(head_weights + 8 * j + 2 * quad);
  }
  return weights;
}

/// After the products: the thread's share of the sums of its two keys.
template <int kHeads>
__device__ inline float2 weigh_heads(float (&sums)[kHeads / 2], const HeadWeights<kHeads>& weights) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
  float even[2] = {0, 0};
  float odd[2] = {0, 0};
#pragma unroll
  for (int j = 0; j < kHeads / 8; ++j) {
    const float2 w = weights.pairs[j];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      even[half] = __fmaf_rn(w.x, relu(sums[4 * j + 2 * half]), even[half]);
      odd[half] = __fmaf_rn(w.y, relu(sums[4 * j + 2 * half + 1]), odd[half]);
    }
  }
  return make_float2(__fadd_rn(even[0], odd[0]), __fadd_rn(even[1], odd[1]));
}

// The four threads of a key add their shares: (0 + 1) + (2 + 3), whoever adds. Each then has one key's sum.

/// Two of the four, of two keys: the first by the even ones, the second by the odd.
__device__ inline float pair_sum(float2 shares) {
  const bool odd = threadIdx.x % 2 != 0;
  return __fadd_rn(odd ? shares.y : shares.x, __shfl_xor_sync(~0U, odd ? shares.x : shares.y, 1));
}
/// All four: `first` by the lower two, `second` by the upper.
__device__ inline float share_sum(float first, float second) {
  const bool upper = threadIdx.x % 4 >= 2;
  return __fadd_rn(upper ? second : first, __shfl_xor_sync(~0U, upper ? first : second, 2));
}

}  // namespace fulgur::cuda
