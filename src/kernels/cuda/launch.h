#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "kernels/cuda/cuda_check.h"

namespace fulgur::cuda {

/// Of the current device; throws `device`.
inline int num_multiprocessors() {
  int device = 0;
  int multiprocessors = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  return multiprocessors;
}

/// The geometry of a launch.
struct Grid {
  dim3 blocks;
  int threads = 0;
  size_t shared_bytes = 0;  // dynamic
  int cluster = 1;          // blocks along x
  bool pdl = true;          // false for what follows another stream's event
};

/// Lets a kernel have so many bytes of dynamic shared memory, and clusters of that size. Never less than it
/// was let have before: another thread may be about to launch it.
cudaError_t allow_launch(const void* kernel, size_t shared_bytes, int cluster);

/// Queues a kernel of CTAs that lie in clusters if grid.cluster says so.
template <typename... Params, typename... Args>
cudaError_t launch_kernel(void (*kernel)(Params...), const Grid& grid, cudaStream_t on, Args&&... args) {
  const cudaError_t status =
      allow_launch(reinterpret_cast<const void*>(kernel), grid.shared_bytes, grid.cluster);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (grid.pdl) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(grid.cluster);
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = dim3(static_cast<unsigned>(grid.threads));
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = on;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

#ifdef __CUDACC__
/// Until the kernels before this one have ended and their writes are seen (PTX ISA, griddepcontrol).
__device__ inline void wait_for_predecessor() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
/// Lets the next kernel's CTAs start where there is room; they wait for this one's end themselves.
__device__ inline void allow_successor() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
#endif

}  // namespace fulgur::cuda
