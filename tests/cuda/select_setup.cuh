#pragma once

// A batch for the selection's check and bench: sequences of given lengths whose pages are scattered over a
// pool, filled on the device from select_inputs.h.

#include <algorithm>
#include <numeric>
#include <vector>

#include "cuda/device_array.h"
#include "cuda/select_inputs.h"
#include "kernels/cuda/indexer_tuned.h"

namespace fulgur::cuda_test {

constexpr uint64_t kKeySeed = 11;
constexpr uint64_t kScaleSeed = 12;
constexpr uint64_t kQuerySeed = 13;
constexpr uint64_t kWeightSeed = 14;
constexpr int kDim = 128;

__global__ void fill_keys(uint8_t* pages, int64_t num_pages, Codes codes) {
  const int64_t keys = num_pages * 64;
  for (int64_t key = blockIdx.x; key < keys; key += gridDim.x) {
    uint8_t* page = pages + key / 64 * static_cast<int64_t>(cuda::kIndexPageBytes);
    const int d = static_cast<int>(threadIdx.x);
    page[key % 64 * kDim + d] = code_at(kKeySeed, static_cast<uint64_t>(key) * kDim + d, codes);
    if (d == 0) {
      reinterpret_cast<float*>(page + 64 * kDim)[key % 64] =
          scale_at(kScaleSeed, static_cast<uint64_t>(key), codes);
    }
  }
}

__global__ void fill_queries(uint8_t* q, float* weights, int rows, int heads, Codes codes) {
  for (int64_t head = blockIdx.x; head < static_cast<int64_t>(rows) * heads; head += gridDim.x) {
    const int d = static_cast<int>(threadIdx.x);
    q[head * kDim + d] = code_at(kQuerySeed, static_cast<uint64_t>(head) * kDim + d, codes);
    if (d == 0) weights[head] = weight_at(kWeightSeed, static_cast<uint64_t>(head), codes, heads);
  }
}

/// Scales of pages' keys, [num_pages][64], as a call's scores where all codes are ones.
inline void put_scales(uint8_t* pages, const std::vector<float>& scales) {
  must(cudaMemcpy2D(pages + 64 * kDim, cuda::kIndexPageBytes, scales.data(), 64 * sizeof(float),
                    64 * sizeof(float), scales.size() / 64, cudaMemcpyHostToDevice),
       "scales");
}

/// A permutation of 0 .. n-1 that scatters neighbours.
inline std::vector<int32_t> scattered(int n, uint64_t seed) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (int i = n - 1; i > 0; --i) {
    std::swap(order[i], order[word_at(seed, static_cast<uint64_t>(i)) % static_cast<uint32_t>(i + 1)]);
  }
  return order;
}

}  // namespace fulgur::cuda_test
