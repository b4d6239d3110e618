#include "kernels/cuda/tensor_map.h"

namespace fulgur::cuda {

cudaError_t encode_tensor_map(CUtensorMap* map, const void* data, size_t dims, const uint64_t* size,
                              const uint64_t* stride, const uint32_t* box, bool swizzled) {
  // The runtime asks the driver for it, so that the program needs no libcuda to start.
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    constexpr unsigned kSince = 12000;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
      function = nullptr;
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  if (encode == nullptr) return cudaErrorNotSupported;
  constexpr size_t kMostDims = 5;
  constexpr uint32_t kUnitSteps[kMostDims] = {1, 1, 1, 1, 1};
  const CUresult status =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, static_cast<uint32_t>(dims), const_cast<void*>(data), size,
             stride, box, kUnitSteps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return status == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace fulgur::cuda
