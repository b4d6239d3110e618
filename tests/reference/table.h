#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "base/matrix.h"
#include "base/weight.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"
#include "reference/real.h"

namespace fulgur::reference {

using Row = std::span<const Real>;

/// A row-major matrix that owns its numbers.
struct Table {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<Real> data;

  Table() = default;
  Table(int64_t rows, int64_t cols) : rows(rows), cols(cols), data(static_cast<size_t>(rows * cols)) {}

  [[nodiscard]] Real& at(int64_t r, int64_t c) { return data[static_cast<size_t>(r * cols + c)]; }
  [[nodiscard]] const Real& at(int64_t r, int64_t c) const { return data[static_cast<size_t>(r * cols + c)]; }
  [[nodiscard]] std::span<Real> row(int64_t r) {
    return std::span(data).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols));
  }
  [[nodiscard]] Row row(int64_t r) const {
    return std::span(data).subspan(static_cast<size_t>(r * cols), static_cast<size_t>(cols));
  }
  [[nodiscard]] Table take_rows(int64_t first, int64_t count) const {
    Table part(count, cols);
    std::copy_n(data.begin() + first * cols, count * cols, part.data.begin());
    return part;
  }
};

/// Element `index` of an array in host memory.
inline double element(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kBf16:
      return to_float(static_cast<const Bf16*>(data)[index]);
    case DType::kF16:
      return half_to_float(static_cast<const uint16_t*>(data)[index]);
    case DType::kF32:
      return static_cast<const float*>(data)[index];
    case DType::kF8E4M3:
      return e4m3_to_float(static_cast<const uint8_t*>(data)[index]);
    default:
      return std::nan("");
  }
}

inline Table values_of(const void* data, DType dtype, int64_t rows, int64_t cols, int64_t stride) {
  Table table(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) table.at(r, c) = element(data, dtype, r * stride + c);
  }
  return table;
}
inline Table values_of(const Operand& x) { return values_of(x.data, x.dtype, x.rows, x.cols, x.stride); }

/// An element of a quantized weight (docs/spec/checkpoints.md, 3.3 and 3.6). The factor of an NVFP4 matrix is
/// rounded to f32 before it is used.
inline Real quantized_element(const Weight& w, int64_t r, int64_t c) {
  const auto* bytes = static_cast<const uint8_t*>(w.data);
  if (w.form == WeightForm::kFp8) {
    const int64_t blocks = (w.cols + w.block_cols - 1) / w.block_cols;
    const int64_t block = (w.first_row + r) / w.block_rows * blocks + c / w.block_cols;
    return Real(e4m3_to_float(bytes[r * w.cols + c])) * Real(static_cast<const float*>(w.scales)[block]);
  }
  const uint8_t pair = bytes[(r * w.cols + c) / 2];
  const double code = e2m1_to_float(c % 2 == 0 ? pair : pair >> 4);
  const double scale = e4m3_to_float(static_cast<const uint8_t*>(w.scales)[(r * w.cols + c) / 16]);
  return Real(code * scale) * rounded(Real(w.global));
}
inline Table values_of(const Weight& w) {
  if (is_plain(w.form)) return values_of(w.data, stored_dtype(w.form), w.rows, w.cols, w.cols);
  Table table(w.rows, w.cols);
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t c = 0; c < w.cols; ++c) table.at(r, c) = quantized_element(w, r, c);
  }
  return table;
}
inline Table values_of(const Matrix<const float>& m) {
  return values_of(m.data, DType::kF32, m.rows, m.cols, m.stride);
}

/// Where position s of row t's sequence lies in the pools.
inline int page_of(const TokenBatch& batch, int64_t t, int64_t s) {
  return batch.pages.row(batch.sequence[t])[s / kPageTokens];
}

/// The cached entry [c ; kp] of position s in row t's sequence.
inline std::vector<Real> cached_latent(const PagedLatents& latents, const TokenBatch& batch, int64_t t,
                                       int64_t s) {
  const int64_t token = int64_t{page_of(batch, t, s)} * kPageTokens + s % kPageTokens;
  std::vector<Real> entry(static_cast<size_t>(latents.width));
  if (latents.dtype == DType::kF8E4M3) {
    const auto r = static_cast<size_t>(latents.width - latents.rope);
    const size_t num_scales = (r + 127) / 128;
    const size_t bytes = r + 4 * num_scales + 2 * static_cast<size_t>(latents.rope);
    const auto* codes = static_cast<const uint8_t*>(latents.data) + static_cast<size_t>(token) * bytes;
    for (size_t i = 0; i < r; ++i) {
      float scale = 0;
      std::memcpy(&scale, codes + r + 4 * (i / 128), sizeof scale);
      entry[i] = Real(e4m3_to_float(codes[i])) * Real(scale);
    }
    for (size_t i = r; i < entry.size(); ++i) {
      Bf16 value;
      std::memcpy(&value, codes + r + 4 * num_scales + 2 * (i - r), sizeof value);
      entry[i] = to_float(value);
    }
    return entry;
  }
  for (int i = 0; i < latents.width; ++i) {
    entry[static_cast<size_t>(i)] = element(latents.data, latents.dtype, token * latents.width + i);
  }
  return entry;
}

/// The scale of the cached index key of position s in row t's sequence; 1 where keys have none.
inline Real cached_scale(const PagedKeys& keys, const TokenBatch& batch, int64_t t, int64_t s) {
  if (keys.dtype != DType::kF8E4M3) return 1;
  const auto* page = static_cast<const std::byte*>(keys.data) +
                     static_cast<size_t>(page_of(batch, t, s)) * keys.page_bytes();
  float scale = 0;
  std::memcpy(&scale, page + static_cast<size_t>(kPageTokens * keys.width + s % kPageTokens * 4),
              sizeof scale);
  return scale;
}
/// The cached index key of position s in row t's sequence; its codes' values where it has a scale.
inline std::vector<Real> cached_key(const PagedKeys& keys, const TokenBatch& batch, int64_t t, int64_t s) {
  std::vector<Real> key(static_cast<size_t>(keys.width));
  if (keys.dtype == DType::kF8E4M3) {
    const auto* page = static_cast<const uint8_t*>(keys.data) +
                       static_cast<size_t>(page_of(batch, t, s)) * keys.page_bytes();
    for (int i = 0; i < keys.width; ++i)
      key[static_cast<size_t>(i)] = e4m3_to_float(page[s % kPageTokens * keys.width + i]);
    return key;
  }
  const int64_t page = int64_t{page_of(batch, t, s)} * keys.page_elements();
  for (int i = 0; i < keys.width; ++i) {
    key[static_cast<size_t>(i)] =
        element(keys.data, keys.dtype, page + PagedKeys::offset(i, static_cast<int>(s % kPageTokens)));
  }
  return key;
}

}  // namespace fulgur::reference
