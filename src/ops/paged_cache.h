#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "ops/token_batch.h"

namespace fulgur {

/// One layer's pool of compressed kv: for every cached token the normalized latent c [r] and then the rotated
/// shared key kp [dr]. [num_pages, 64, r + dr], bf16 or f32 (docs/spec/model.md, sections 3 and 12).
///
/// e4m3 (where Backend::mixed_caches): c = scale * code. An entry is the r codes of c, a scale in f32 for
/// each started 128 of them, and kp in bf16, without gaps: 656 bytes for r = 512 and dr = 64.
struct PagedLatents {
  static constexpr int kGroup = 128;  // codes that share a scale

  void* data = nullptr;
  DType dtype = DType::kBf16;
  int num_pages = 0;
  int width = 0;  // r + dr
  int rope = 0;   // dr; e4m3 alone needs it

  /// e4m3.
  [[nodiscard]] constexpr int kv_lora() const { return width - rope; }
  [[nodiscard]] constexpr int num_scales() const { return (kv_lora() + kGroup - 1) / kGroup; }
  [[nodiscard]] size_t entry_bytes() const {
    if (dtype != DType::kF8E4M3) return static_cast<size_t>(width) * size_bytes(dtype);
    return static_cast<size_t>(kv_lora()) + static_cast<size_t>(num_scales()) * sizeof(float) +
           static_cast<size_t>(rope) * sizeof(Bf16);
  }
  [[nodiscard]] size_t bytes() const { return static_cast<size_t>(num_pages) * kPageTokens * entry_bytes(); }
  /// e4m3: an entry's first code. What follows it need not be aligned.
  [[nodiscard]] uint8_t* codes(int page, int slot) const {
    return static_cast<uint8_t*>(data) +
           (static_cast<size_t>(page) * kPageTokens + static_cast<size_t>(slot)) * entry_bytes();
  }
  /// The entry of one token, back-end memory. T is Bf16 or float, the dtype's.
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
  /// e4m3.
  [[nodiscard]] uint8_t* codes(int page) const {
    return static_cast<uint8_t*>(data) + static_cast<size_t>(page) * page_bytes();
  }
  [[nodiscard]] float* scales(int page) const {
    return reinterpret_cast<float*>(codes(page) +
                                    static_cast<size_t>(kPageTokens) * static_cast<size_t>(width));
  }
  /// Where component `dim` of the token in `slot` lies, in elements from the page's start. bf16, f32.
  [[nodiscard]] static constexpr int64_t offset(int dim, int slot) {
    return (static_cast<int64_t>(dim / 2) * kPageTokens + slot) * 2 + dim % 2;
  }
};

}  // namespace fulgur
