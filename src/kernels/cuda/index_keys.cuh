#pragma once

// Index keys and queries in all their forms (ops/paged_cache.h).

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/reduce.cuh"
#include "ops/indexer_prepare.h"
#include "ops/paged_cache.h"

namespace fulgur::cuda {

/// An e4m3 code, as a type.
struct E4m3 {
  uint8_t code;
};
__device__ inline float load(const E4m3* x) { return e4m3_to_float(x->code); }

/// Calls f with an element of the form (a value to take the type of).
template <typename F>
void with_key_element(DType dtype, F&& f) {
  if (dtype == DType::kF8E4M3) return f(E4m3{});
  with_operand(dtype, f);
}

__device__ inline uint8_t* fp8_page(const PagedKeys& keys, int32_t page) {
  return static_cast<uint8_t*>(keys.data) +
         int64_t{page} * kPageTokens * (keys.width + static_cast<int>(sizeof(float)));
}
__device__ inline float* fp8_scales(const PagedKeys& keys, int32_t page) {
  return reinterpret_cast<float*>(fp8_page(keys, page) + int64_t{kPageTokens} * keys.width);
}

/// Component `dim` of the key in `slot`, without its scale.
template <typename T>
__device__ float key_component(const PagedKeys& keys, int32_t page, int slot, int dim) {
  if constexpr (std::is_same_v<T, E4m3>) {
    return e4m3_to_float(fp8_page(keys, page)[slot * keys.width + dim]);
  } else {
    return load(keys.page<const T>(page) + PagedKeys::offset(dim, slot));
  }
}

constexpr float kLeastAmax = 1e-4F;  // docs/spec/model.md, section 4

/// The scale of a group whose largest magnitude is amax.
__device__ inline float fp8_scale(float amax, bool power_of_two) {
  const float scale = fmaxf(amax, kLeastAmax) / kMostE4m3;
  if (!power_of_two) return scale;
  const uint32_t bits = __float_as_uint(scale);
  constexpr uint32_t kMantissa = 0x7fffff;
  return __uint_as_float((bits + kMantissa) & ~kMantissa);
}

/// x [size] in shared memory times the Walsh-Hadamard matrix over sqrt(size), by the block; all of x is
/// visible afterwards.
__device__ inline void hadamard(float* x, int size) {
  for (int half = 1; half < size; half *= 2) {
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < size / 2; i += static_cast<int>(blockDim.x)) {
      const int at = i / half * 2 * half + i % half;
      const float a = x[at];
      const float b = x[at + half];
      x[at] = a + b;
      x[at + half] = a - b;
    }
  }
  __syncthreads();
  const float scale = 1.0F / sqrtf(static_cast<float>(size));
  for (int i = static_cast<int>(threadIdx.x); i < size; i += static_cast<int>(blockDim.x)) x[i] *= scale;
  __syncthreads();
}

}  // namespace fulgur::cuda
