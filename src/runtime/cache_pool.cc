#include "runtime/cache_pool.h"

#include <algorithm>

namespace fulgur {

namespace {

size_t num_layers(const Config& config, bool mtp) {
  return static_cast<size_t>(config.num_hidden_layers) + (mtp ? 1 : 0);
}

/// A layer's caches of so many pages, without their memory.
LayerCache shape_of(const Config& config, size_t layer, const CacheDTypes& dtypes, int num_pages) {
  LayerCache cache;
  cache.latents = {.dtype = dtypes.latents,
                   .num_pages = num_pages,
                   .width = static_cast<int>(config.kv_lora_rank + config.qk_rope_head_dim),
                   .rope = static_cast<int>(config.qk_rope_head_dim)};
  const bool mtp = layer == config.full_indexer.size();  // which always selects for itself
  if (config.sparse() && (mtp || config.full_indexer[layer]))
    cache.keys = {
        .dtype = dtypes.index_keys, .num_pages = num_pages, .width = static_cast<int>(config.index_head_dim)};
  return cache;
}

}  // namespace

std::vector<LayerCache> cache_shapes(const Config& config, bool mtp, const CacheDTypes& dtypes,
                                     int num_pages) {
  std::vector<LayerCache> layers;
  for (size_t i = 0; i < num_layers(config, mtp); ++i) {
    layers.push_back(shape_of(config, i, dtypes, num_pages));
  }
  return layers;
}

CachePool::CachePool(const Config& config, bool mtp, const CacheDTypes& dtypes, int num_pages,
                     const Backend& backend, ThreadTeam& team)
    : layers_(cache_shapes(config, mtp, dtypes, num_pages)) {
  for (LayerCache& layer : layers_) {
    layer.latents.data = buffers_.emplace_back(backend, layer.latents.bytes()).data();
    if (layer.keys.width > 0) layer.keys.data = buffers_.emplace_back(backend, layer.keys.bytes()).data();
  }
  if (backend.settle == nullptr) return;
  for (const BackendBuffer& buffer : buffers_) backend.settle(team, buffer.data(), buffer.bytes());
}

CachePageBytes cache_page_bytes(const Config& config, bool mtp, const CacheDTypes& dtypes) {
  CachePageBytes total;
  for (const LayerCache& layer : cache_shapes(config, mtp, dtypes, 1)) {
    total.latents += layer.latents.bytes();
    total.index_keys += layer.keys.bytes();
  }
  return total;
}

}  // namespace fulgur
