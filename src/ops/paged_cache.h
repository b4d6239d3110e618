#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/token_batch.h"

namespace fulgur {

/// One layer's pool of compressed kv: for every cached token the normalized latent c [r] and then the rotated
/// shared key kp [dr]. [num_pages, 64, r + dr], bf16 or f32 (docs/spec/model.md, sections 3 and 12).
struct PagedLatents {
  void* data = nullptr;
  DType dtype = DType::kBf16;
  int num_pages = 0;
  int width = 0;  // r + dr

  [[nodiscard]] size_t bytes() const {
    return static_cast<size_t>(num_pages) * kPageTokens * static_cast<size_t>(width) * size_bytes(dtype);
  }
  /// The entry of one token, back-end memory. T is Bf16 or float.
  template <typename T>
  [[nodiscard]] T* entry(int page, int slot) const {
    return static_cast<T*>(data) + (static_cast<int64_t>(page) * kPageTokens + slot) * width;
  }
};

/// One layer's pool of index keys, one vector k [dI] a token. Within a page, components go in pairs and
/// tokens lie side by side: [num_pages, ceil(dI / 2), 64, 2]. A kernel whose lanes are tokens so reads whole
/// vectors, and a pair of bf16 components is what the bf16 dot-product instructions take. bf16 or f32. An odd
/// dI has a zero in its last pair.
struct PagedKeys {
  void* data = nullptr;
  DType dtype = DType::kBf16;
  int num_pages = 0;
  int width = 0;  // dI

  [[nodiscard]] int pairs() const { return (width + 1) / 2; }
  [[nodiscard]] int64_t page_elements() const { return static_cast<int64_t>(pairs()) * kPageTokens * 2; }
  [[nodiscard]] size_t bytes() const {
    return static_cast<size_t>(num_pages) * static_cast<size_t>(page_elements()) * size_bytes(dtype);
  }
  template <typename T>
  [[nodiscard]] T* page(int page) const {
    return static_cast<T*>(data) + page * page_elements();
  }
  /// Where component `dim` of the token in `slot` lies, in elements from the page's start.
  [[nodiscard]] static int64_t offset(int dim, int slot) {
    return (static_cast<int64_t>(dim / 2) * kPageTokens + slot) * 2 + dim % 2;
  }
};

}  // namespace fulgur
