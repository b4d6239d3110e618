#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/launch.h"

namespace fulgur::cuda {

constexpr uint32_t kNanFault = 1;  // kFaultNan of ops/token_batch.h

/// So many clusters run at once; throws `device`. Clusters lie within a GPC, so fewer may than there are
/// multiprocessors for; none of a size that no GPC of the device has room for.
template <typename... Params>
int clusters_at_once(void (*kernel)(Params...), int cluster, int threads, size_t shared_bytes) {
  check(allow_launch(reinterpret_cast<const void*>(kernel), shared_bytes, cluster), "cudaFuncSetAttribute");
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
  attribute.val.clusterDim.y = 1;
  attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(cluster * num_multiprocessors()));
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
