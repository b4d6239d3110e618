#pragma once

#include <span>
#include <vector>

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
  CachePool(const Config& config, bool mtp, const CacheDTypes& dtypes, int num_pages, const Backend& backend);

  [[nodiscard]] std::span<const LayerCache> layers() const { return layers_; }

 private:
  std::vector<BackendBuffer> buffers_;
  std::vector<LayerCache> layers_;
};

/// The caches of all layers, of so many pages, without their memory.
std::vector<LayerCache> cache_shapes(const Config& config, bool mtp, const CacheDTypes& dtypes,
                                     int num_pages);

/// Bytes of one page in all layers together that are written where no sequence has more than so many tokens:
/// entries of latents lie behind one another, keys don't.
struct CachePageBytes {
  size_t latents = 0;
  size_t index_keys = 0;
};
CachePageBytes cache_page_bytes(const Config& config, bool mtp, const CacheDTypes& dtypes, int64_t tokens);

}  // namespace fulgur
