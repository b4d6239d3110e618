#include "kernels/cuda/launch.h"

#include <map>
#include <mutex>
#include <utility>

namespace fulgur::cuda {

// The runtime keeps one limit of a kernel for all threads of the process.
cudaError_t allow_launch(const void* kernel, size_t shared_bytes, int cluster) {
  constexpr int kPortableCluster = 8;
  if (shared_bytes == 0 && cluster <= kPortableCluster) return cudaSuccess;  // what any kernel is let
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> allowed;
  int device = 0;
  cudaError_t status = cudaGetDevice(&device);
  const std::lock_guard lock(mutex);
  size_t& bytes = allowed[{device, kernel}];
  if (status == cudaSuccess && shared_bytes > bytes) {
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
    if (status == cudaSuccess) bytes = shared_bytes;
  }
  if (status == cudaSuccess && cluster > kPortableCluster)
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  return status;
}

}  // namespace fulgur::cuda
