#pragma once

#include <span>
#include <vector>

#include "base/thread_team.h"
#include "model/config.h"
#include "model/step.h"
#include "ops/buffer.h"
#include "runtime/cache_dtypes.h"

namespace fulgur {

/// The paged caches of all layers, `mtp`: with the MTP layer's behind the others. A page number means the
/// same 64 positions in every layer: its latents and, where the layer owns an indexer, its index keys
/// (docs/design.md, section 5).
class CachePool {
 public:
  /// Their memory is taken whole, on the team's threads: what a process takes doesn't depend on how far its
  /// texts get.
  CachePool(const Config& config, bool mtp, const CacheDTypes& dtypes, int num_pages, const Backend& backend,
            ThreadTeam& team);

  [[nodiscard]] std::span<const LayerCache> layers() const { return layers_; }

 private:
  std::vector<BackendBuffer> buffers_;
  std::vector<LayerCache> layers_;
};

/// The caches of all layers, of so many pages, without their memory.
std::vector<LayerCache> cache_shapes(const Config& config, bool mtp, const CacheDTypes& dtypes,
                                     int num_pages);

/// Bytes of one page in all layers together.
struct CachePageBytes {
  size_t latents = 0;
  size_t index_keys = 0;
};
CachePageBytes cache_page_bytes(const Config& config, bool mtp, const CacheDTypes& dtypes);

}  // namespace fulgur
