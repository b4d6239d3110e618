#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/launch.h"

namespace fulgur::cuda {

constexpr int kMultiprocessors = 132;        // of an H100 or H200 SXM
constexpr size_t kMostSharedBytes = 232448;  // a block of compute capability 9.0
constexpr uint32_t kNanFault = 1;            // kFaultNan of ops/token_batch.h

constexpr int round_up(int value, int to) { return (value + to - 1) / to * to; }

/// So many clusters run at once; throws `device`. Clusters lie within a GPC, so fewer may than there are
/// multiprocessors for.
template <typename... Params>
int clusters_at_once(void (*kernel)(Params...), int cluster, int threads, size_t shared_bytes) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "cudaFuncSetAttribute");
  if (cluster > 8) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
          "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cluster * kMultiprocessors));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int count = 0;
  check(cudaOccupancyMaxActiveClusters(&count, kernel, &config), "cudaOccupancyMaxActiveClusters");
  return count;
}

/// `blocks` blocks in clusters of `cluster` along x.
template <typename... Params, typename... Args>
cudaError_t launch_clusters(void (*kernel)(Params...), dim3 blocks, int cluster, int threads,
                            size_t shared_bytes, const LaunchOptions& options, Args... args) {
  const Grid grid{.blocks = blocks,
                  .threads = threads,
                  .shared_bytes = shared_bytes,
                  .cluster = cluster,
                  .pdl = options.pdl};
  return launch_kernel(kernel, grid, options.stream, args...);
}

}  // namespace fulgur::cuda
