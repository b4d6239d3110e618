#include "runtime/cache_pool.h"

namespace fulgur {

namespace {

size_t num_layers(const Config& config, bool mtp) {
  return static_cast<size_t>(config.num_hidden_layers) + (mtp ? 1 : 0);
}

/// A layer's caches of so many pages, without their memory.
LayerCache shape_of(const Config& config, size_t layer, DType dtype, int num_pages) {
  LayerCache cache;
  cache.latents = {.dtype = dtype,
                   .num_pages = num_pages,
                   .width = static_cast<int>(config.kv_lora_rank + config.qk_rope_head_dim)};
  const bool mtp = layer == config.full_indexer.size();  // which always selects for itself
  if (config.sparse() && (mtp || config.full_indexer[layer]))
    cache.keys = {.dtype = dtype, .num_pages = num_pages, .width = static_cast<int>(config.index_head_dim)};
  return cache;
}

}  // namespace

CachePool::CachePool(const Config& config, bool mtp, DType dtype, int num_pages, const Backend& backend) {
  for (size_t i = 0; i < num_layers(config, mtp); ++i) {
    LayerCache& layer = layers_.emplace_back(shape_of(config, i, dtype, num_pages));
    layer.latents.data = buffers_.emplace_back(backend, layer.latents.bytes()).data();
    if (layer.keys.width > 0) layer.keys.data = buffers_.emplace_back(backend, layer.keys.bytes()).data();
  }
}

size_t cache_page_bytes(const Config& config, bool mtp, DType dtype) {
  size_t total = 0;
  for (size_t i = 0; i < num_layers(config, mtp); ++i) {
    const LayerCache layer = shape_of(config, i, dtype, 1);
    total += layer.latents.bytes() + layer.keys.bytes();
  }
  return total;
}

}  // namespace fulgur
