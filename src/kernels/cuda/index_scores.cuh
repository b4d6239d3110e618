#pragma once

// The arithmetic of an index score on the tensor cores, for every tuned kernel that needs one:
//
//   score[s] = scale[s] * sum_h w[h] * max(0, q[h] . k[s])
//
// A warpgroup takes a page: 64 keys as A in registers, all heads of a query as B in shared memory
// (index_tile.h), four products of 32 bytes of components (bf16: eight) one after the other. A thread then
// has two keys (rows lane / 4 and + 8 of its warp's 16) and of each a quarter of the heads (2q, 2q + 1 of
// every eight, q = lane % 4): it sums even and odd ones in a chain each, adds the two, and the four threads
// of a key add theirs. No sum crosses keys or queries, so a score depends on its query row and its key alone.
//
// Cost of a page and query: 64 * heads * 128 multiply-adds (128 cycles at 64 heads), and a maximum and an FMA
// for each of 64 * heads sums (96 cycles of the multiprocessor's FP32 and integer lanes).

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/index_tile.h"
#include "kernels/cuda/indexer_tuned.h"

namespace fulgur::cuda {

template <IndexForm kForm>
struct KeyForm {
  static constexpr int kRowBytes = kForm == IndexForm::kE4m3 ? 128 : 256;
  static constexpr int kChunks = kRowBytes / 16;
  static constexpr int kSteps = kRowBytes / 32;
  static constexpr int kPageBytes = static_cast<int>(page_bytes(kForm));
  static constexpr bool kScaled = kForm == IndexForm::kE4m3;
};

/// A thread's part of A: [step][register].
template <IndexForm kForm>
struct KeyFragment {
  uint32_t words[KeyForm<kForm>::kSteps][4];
};

/// The key rows of a thread within a page: this and 8 more.
__device__ inline int key_row() {
  return static_cast<int>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
}

template <IndexForm kForm>
__device__ inline void load_keys(const uint8_t* page, KeyFragment<kForm>& keys) {
  using Form = KeyForm<kForm>;
  const int row = key_row();
  const int quad = static_cast<int>(threadIdx.x % 4);
  const bool odd = row % 2 != 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint8_t* bytes = page + (row + 8 * half) * Form::kRowBytes;
#pragma unroll
    for (int span = 0; span < Form::kSteps / kStepsPerSpan; ++span) {
      const uint4 a = *reinterpret_cast<const uint4*>(bytes + (span * 8 + first_chunk(row, quad)) * 16);
      const uint4 b = *reinterpret_cast<const uint4*>(bytes + (span * 8 + second_chunk(row, quad)) * 16);
      const uint4 lower = odd ? b : a;  // chunk `quad`
      const uint4 upper = odd ? a : b;  // chunk `quad` + 4
      uint32_t(*words)[4] = keys.words + span * kStepsPerSpan;
      words[0][half] = lower.x;
      words[1][half] = lower.y;
      words[2][half] = lower.z;
      words[3][half] = lower.w;
      words[0][half + 2] = upper.x;
      words[1][half + 2] = upper.y;
      words[2][half + 2] = upper.z;
      words[3][half + 2] = upper.w;
    }
  }
}

/// The scales of the thread's two keys.
template <IndexForm kForm>
__device__ inline float2 load_scales(const uint8_t* page) {
  using Form = KeyForm<kForm>;
  if constexpr (!Form::kScaled) return make_float2(1.0F, 1.0F);
  const float* scales = reinterpret_cast<const float*>(page + kPageKeys * Form::kRowBytes) + key_row();
  return make_float2(scales[0], scales[8]);
}

/// Writes 16 bytes of a query (chunk `chunk` of head `head`) where B wants them.
__device__ inline void store_query_chunk(uint8_t* to, int heads, int head, int chunk, const uint4& value) {
  *reinterpret_cast<uint32_t*>(to + query_word_offset(heads, head, chunk, 0)) = value.x;
  *reinterpret_cast<uint32_t*>(to + query_word_offset(heads, head, chunk, 1)) = value.y;
  *reinterpret_cast<uint32_t*>(to + query_word_offset(heads, head, chunk, 2)) = value.z;
  *reinterpret_cast<uint32_t*>(to + query_word_offset(heads, head, chunk, 3)) = value.w;
}

/// sums = A B^T, begun: wgmma_wait<0>() ends it. `query` is B's shared address.
/// `kColumns` heads: of one query, or (e4m3) of several that lie one behind the other.
template <IndexForm kForm, int kHeads, int kColumns = kHeads>
__device__ inline void begin_products(const KeyFragment<kForm>& keys, uint32_t query,
                                      float (&sums)[kColumns / 2]) {
  static_assert(kColumns == kHeads || KeyForm<kForm>::kSteps == kStepsPerSpan);
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < KeyForm<kForm>::kSteps; ++step) {
    const uint64_t b = swizzled_operand(query + query_step_offset(kHeads, step));
    if constexpr (kForm == IndexForm::kE4m3) {
      wgmma_e4m3(sums, keys.words[step], b, step > 0 ? 1 : 0);
    } else {
      wgmma_bf16(sums, keys.words[step], b, step > 0 ? 1 : 0);
    }
  }
  wgmma_commit();
}

/// After the products: the scores of the thread's two keys, in each of the four threads that share them.
/// `kFirst` is where the query's sums begin, if there are several queries'.
template <int kHeads, int kFirst = 0, int kSums = kHeads / 2>
__device__ inline float2 weigh_heads(float (&sums)[kSums], const float* head_weights, float2 scale) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
  const int quad = static_cast<int>(threadIdx.x % 4);
  float even[2] = {0, 0};
  float odd[2] = {0, 0};
#pragma unroll
  for (int j = 0; j < kHeads / 8; ++j) {
    const float2 w = *reinterpret_cast<const float2*>(head_weights + 8 * j + 2 * quad);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      even[half] = __fmaf_rn(w.x, relu(sums[kFirst + 4 * j + 2 * half]), even[half]);
      odd[half] = __fmaf_rn(w.y, relu(sums[kFirst + 4 * j + 2 * half + 1]), odd[half]);
    }
  }
  float score[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = __fadd_rn(even[half], odd[half]);
    sum = __fadd_rn(sum, __shfl_xor_sync(~0U, sum, 1));
    sum = __fadd_rn(sum, __shfl_xor_sync(~0U, sum, 2));
    score[half] = __fmul_rn(sum, half == 0 ? scale.x : scale.y);
  }
  return make_float2(score[0], score[1]);
}

}  // namespace fulgur::cuda
