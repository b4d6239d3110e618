#pragma once

#include <span>
#include <vector>

#include "model/config.h"
#include "model/step.h"
#include "ops/buffer.h"

namespace fulgur {

/// The paged caches of all layers, `mtp`: with the MTP layer's behind the others. A page number means the
/// same 64 positions in every layer: its latents and, where the layer owns an indexer, its index keys
/// (docs/design.md, section 5).
class CachePool {
 public:
  CachePool(const Config& config, bool mtp, DType dtype, int num_pages, const Backend& backend);

  [[nodiscard]] std::span<const LayerCache> layers() const { return layers_; }

 private:
  std::vector<BackendBuffer> buffers_;
  std::vector<LayerCache> layers_;
};

/// Bytes of one page in all layers together.
size_t cache_page_bytes(const Config& config, bool mtp, DType dtype);

}  // namespace fulgur
