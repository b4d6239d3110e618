#pragma once

// Products of bf16 weights and bf16 activations in AMX tiles: stored weight rows are the left tile as they
// lie, activations are packed as the right one (pairs of k across 16 tokens), so one token runs the same
// sequence of TDPBF16PS as sixteen. An element is summed in steps of 32 k in ascending order. Up to 2 x 2
// tiles of sums share their operands.

#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Token `slot` (0..15) of a group of 16 = x. In the group, [pairs of k, 16 tokens, 2], zeros up to a
/// multiple of 32 k.
inline void pack_tile_row(const Bf16* x, int64_t cols, std::byte* group, int slot) {
  auto* out = reinterpret_cast<Bf16*>(group) + slot * 2;
  const int64_t padded = (cols + kTileK - 1) / kTileK * kTileK;
  for (int64_t k = 0; k < padded; k += 2) {
    Bf16 pair[2] = {k < cols ? x[k] : Bf16{}, k + 1 < cols ? x[k + 1] : Bf16{}};
    std::memcpy(out + k * kTileRows, pair, sizeof pair);
  }
}

/// 16 stored rows of weights, or fewer, from a multiple of 32 k on: where a whole left tile can be loaded
/// from.
struct TileRows {
  const Bf16* data;
  int64_t stride_bytes;
};

/// `rows` (at most 16) stored rows from w on, k columns left in each: in place where the tile lies whole
/// within them, else copied into `buffer` with zeros around.
inline TileRows tile_rows(const Bf16* w, int64_t stride, int64_t rows, int64_t k,
                          Bf16 (&buffer)[kTileRows * kTileK]) {
  if (rows >= kTileRows && k >= kTileK) return {w, stride * static_cast<int64_t>(sizeof(Bf16))};
  std::fill(std::begin(buffer), std::end(buffer), Bf16{});
  for (int64_t r = 0; r < std::min<int64_t>(rows, kTileRows); ++r) {
    std::memcpy(buffer + r * kTileK, w + r * stride,
                static_cast<size_t>(std::min<int64_t>(k, kTileK)) * sizeof(Bf16));
  }
  return {buffer, kTileRowBytes};
}

/// y[token][output] = sums[output][token] for the real ones of a tile of sums.
template <typename Out>
void store_tile(const float (&sums)[kTileRows * kTileRows], int64_t tokens, int64_t outputs, Out* y,
                int64_t y_stride) {
  const __m512i column = _mm512_mullo_epi32(
      _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(kTileRows));
  for (int64_t t = 0; t < std::min<int64_t>(tokens, kTileRows); ++t) {
    const Vec row{_mm512_i32gather_ps(column, sums + t, 4)};
    store(y + t * y_stride, row, static_cast<int>(std::min<int64_t>(outputs, kTileRows)));
  }
}

/// y = x W^T. x: groups of 16 tokens as pack_tile_row makes them, 16 * row_bytes apart.
template <typename Out>
void multiply_tiles(const std::byte* x, int64_t row_bytes, int64_t tokens, const Weight& w, Out* y,
                    int64_t y_stride) {
  const TileScope scope;
  const auto* weights = static_cast<const Bf16*>(w.data);
  alignas(64) Bf16 left[2][kTileRows * kTileK];
  alignas(64) float sums[kTileRows * kTileRows];
  for (int64_t o = 0; o < w.rows; o += 2 * kTileRows) {
    const bool two_rows = w.rows - o > kTileRows;
    for (int64_t t = 0; t < tokens; t += 2 * kTileRows) {
      const bool two_groups = tokens - t > kTileRows;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      const std::byte* right = x + t * row_bytes;
      for (int64_t k = 0; k < w.cols; k += kTileK) {
        const TileRows first = tile_rows(weights + o * w.cols + k, w.cols, w.rows - o, w.cols - k, left[0]);
        finish_stores();
        _tile_loadd(4, first.data, first.stride_bytes);
        _tile_loadd(6, right + k * kTileRows * 2, kTileRowBytes);
        _tile_dpbf16ps(0, 4, 6);
        if (two_groups) {
          _tile_loadd(7, right + kTileRows * row_bytes + k * kTileRows * 2, kTileRowBytes);
          _tile_dpbf16ps(1, 4, 7);
        }
        if (two_rows) {
          const int64_t next = o + kTileRows;
          const TileRows second =
              tile_rows(weights + next * w.cols + k, w.cols, w.rows - next, w.cols - k, left[1]);
          finish_stores();
          _tile_loadd(5, second.data, second.stride_bytes);
          _tile_dpbf16ps(2, 5, 6);
          if (two_groups) _tile_dpbf16ps(3, 5, 7);
        }
      }
      Out* corner = y + t * y_stride + o;
      _tile_stored(0, sums, kTileRowBytes);
      store_tile(sums, tokens - t, w.rows - o, corner, y_stride);
      if (two_groups) {
        _tile_stored(1, sums, kTileRowBytes);
        store_tile(sums, tokens - t - kTileRows, w.rows - o, corner + kTileRows * y_stride, y_stride);
      }
      if (two_rows) {
        _tile_stored(2, sums, kTileRowBytes);
        store_tile(sums, tokens - t, w.rows - o - kTileRows, corner + kTileRows, y_stride);
        if (two_groups) {
          _tile_stored(3, sums, kTileRowBytes);
          store_tile(sums, tokens - t - kTileRows, w.rows - o - kTileRows,
                     corner + kTileRows * y_stride + kTileRows, y_stride);
        }
      }
    }
  }
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
