#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <cstdint>

namespace fulgur::cuda {

/// How the copy engine sees a matrix of bytes in up to five dimensions, the innermost first and contiguous.
template <size_t kDims>
struct TensorShape {
  std::array<uint64_t, kDims> size;
  std::array<uint64_t, kDims - 1> stride;  // bytes, of dimensions 1 and on; multiples of 16
  std::array<uint32_t, kDims> box;
  bool swizzled;  // rows of 128 bytes (box[0]), 128-byte swizzle; else box[0] is a multiple of 16
};

/// A map of such boxes. `data` is aligned to 16 bytes.
cudaError_t encode_tensor_map(CUtensorMap* map, const void* data, size_t dims, const uint64_t* size,
                              const uint64_t* stride, const uint32_t* box, bool swizzled);
template <size_t kDims>
cudaError_t encode_tensor_map(CUtensorMap* map, const void* data, const TensorShape<kDims>& shape) {
  return encode_tensor_map(map, data, kDims, shape.size.data(), shape.stride.data(), shape.box.data(),
                           shape.swizzled);
}

}  // namespace fulgur::cuda
