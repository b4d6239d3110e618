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
  [[nodiscard]] constexpr T* entry(int page, int slot) const {
    return static_cast<T*>(data) + (static_cast<int64_t>(page) * kPageTokens + slot) * width;
  }
};

/// One layer's pool of index keys, one vector k [dI] a token.
///
/// bf16 or f32: within a page, components go in pairs and tokens lie side by side:
/// [num_pages, ceil(dI / 2), 64, 2]. A kernel whose lanes are tokens so reads whole vectors, and a pair of
/// bf16 components is what the bf16 dot-product instructions take. An odd dI has a zero in its last pair.
///
/// e4m3 (where Backend::fp8_keys): k = scale * code. A page is the codes of its 64 tokens, [64, dI], token
/// after token, and then their 64 scales in f32: 64 (dI + 4) bytes, 132 a key for dI = 128
/// (docs/spec/model.md, sections 4 and 12).
struct PagedKeys {
  void* data = nullptr;
  DType dtype = DType::kBf16;
  int num_pages = 0;
  int width = 0;  // dI

  [[nodiscard]] constexpr int pairs() const { return (width + 1) / 2; }
  /// bf16, f32.
  [[nodiscard]] constexpr int64_t page_elements() const {
    return static_cast<int64_t>(pairs()) * kPageTokens * 2;
  }
  [[nodiscard]] size_t page_bytes() const {
    if (dtype == DType::kF8E4M3) return kPageTokens * (static_cast<size_t>(width) + sizeof(float));
    return static_cast<size_t>(page_elements()) * size_bytes(dtype);
  }
  [[nodiscard]] size_t bytes() const { return static_cast<size_t>(num_pages) * page_bytes(); }
  /// bf16, f32.
  template <typename T>
  [[nodiscard]] constexpr T* page(int page) const {
    return static_cast<T*>(data) + page * page_elements();
  }
  /// Where component `dim` of the token in `slot` lies, in elements from the page's start. bf16, f32.
  [[nodiscard]] static constexpr int64_t offset(int dim, int slot) {
    return (static_cast<int64_t>(dim / 2) * kPageTokens + slot) * 2 + dim % 2;
  }
};

}  // namespace fulgur
