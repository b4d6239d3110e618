#include "runtime/cache_pool.h"

#include <numeric>

namespace fulgur {

CachePool::CachePool(const Config& config, DType dtype, int num_pages, const Backend& backend)
    : free_(static_cast<size_t>(num_pages)) {
  std::iota(free_.rbegin(), free_.rend(), 0);  // page 0 is taken first
  layers_.resize(static_cast<size_t>(config.num_hidden_layers));
  for (size_t i = 0; i < layers_.size(); ++i) {
    PagedLatents& latents = layers_[i].latents;
    latents = {.dtype = dtype,
               .num_pages = num_pages,
               .width = static_cast<int>(config.kv_lora_rank + config.qk_rope_head_dim)};
    latents.data = buffers_.emplace_back(backend, latents.bytes()).data();
    if (!config.sparse() || !config.full_indexer[i]) continue;
    PagedKeys& keys = layers_[i].keys;
    keys = {.dtype = dtype, .num_pages = num_pages, .width = static_cast<int>(config.index_head_dim)};
    keys.data = buffers_.emplace_back(backend, keys.bytes()).data();
  }
}

size_t CachePool::bytes() const {
  size_t total = 0;
  for (const BackendBuffer& buffer : buffers_) total += buffer.bytes();
  return total;
}

int CachePool::take() {
  const int page = free_.back();
  free_.pop_back();
  return page;
}

}  // namespace fulgur
