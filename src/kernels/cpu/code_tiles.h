#pragma once

// Products of FP8 and NVFP4 weights and bf16 activations in AMX tiles. Codes are exact in bf16, and so is an
// NVFP4 code times its group's scale: 32 rows x 512 columns of them are decoded into tiles, which then serve
// up to 192 tokens. FP8's scales go onto the sums: 128 columns are summed in a tile, and an element is
// sum over those blocks, in ascending order, of scale * block. NVFP4's sums stay in their tile, as those of
// bf16 weights do.

#include "kernels/cpu/kernel.h"
#include "kernels/cpu/tiles.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

constexpr int64_t kPanelRows = 2 * kTileRows;
constexpr int64_t kPanelK = 512;
constexpr int64_t kPanelTokens = 192;

/// [steps of 32 columns][32 rows][32 columns]: 32 KB.
struct alignas(64) TilePanel {
  Bf16 step[kPanelK / kTileK][kPanelRows][kTileK];
};

/// to = columns [k, k + 32) of a row as bf16, `count` of them real.
inline void decode_tile_row(const Weight& w, int64_t row, int64_t k, int64_t count, Bf16* to) {
  uint8_t codes[kTileK] = {};
  const auto* from = static_cast<const uint8_t*>(w.data) + row_bytes(w.form, row * w.cols + k);
  if (count < kTileK) {
    std::memcpy(codes, from, static_cast<size_t>(row_bytes(w.form, count)));
    from = codes;
  }
  if (w.form == WeightForm::kFp8) return store_bf16(to, {load_e4m3_as_bf16(from)});
  const uint8_t* group = w.group_scales(row) + k / kNvfp4Group;
  const uint8_t scales[2] = {group[0], count > kNvfp4Group ? group[1] : uint8_t{0}};
  const Vec scale = load_scale_pair(scales);
  const VecPair values = load_e2m1_half(from);
  const __m512i even = _mm512_castps_si512((values.first * scale).v);
  const __m512i odd = _mm512_castps_si512((values.second * scale).v);
  // Bf16 holds both exactly: their lower halves are zero.
  store_bf16(to, {_mm512_or_si512(_mm512_srli_epi32(even, 16), odd)});
}

/// Rows [o, o + 32) and columns [k, k + size) of w; zeros where w has none.
inline void decode_panel(const Weight& w, int64_t o, int64_t k, int64_t size, TilePanel& panel) {
  for (int64_t r = 0; r < kPanelRows; ++r) {
    for (int64_t i = 0; i < size; i += kTileK) {
      Bf16* to = panel.step[i / kTileK][r];
      if (o + r < w.rows) {
        decode_tile_row(w, o + r, k + i, std::min<int64_t>(kTileK, size - i), to);
      } else {
        std::fill_n(to, kTileK, Bf16{});
      }
    }
  }
}

/// A tile of sums in memory.
struct alignas(64) TileSums {
  float at[kTileRows * kTileRows];  // [weight row, token]
};

/// Adds steps [begin, end) of a panel times one or two groups of 16 tokens to tiles 0..3: 0 and 1 are the
/// first 16 rows, 2 and 3 the others. `right` is the panel's first column of the first group.
inline void add_steps(const TilePanel& panel, int64_t begin, int64_t end, const std::byte* right,
                      int64_t group_bytes, bool two_groups) {
  for (int64_t s = begin; s < end; ++s) {
    const std::byte* tokens = right + s * kTileRows * kTileRowBytes;
    _tile_loadd(4, panel.step[s][0], kTileRowBytes);
    _tile_loadd(5, panel.step[s][kTileRows], kTileRowBytes);
    _tile_loadd(6, tokens, kTileRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if (two_groups) {
      _tile_loadd(7, tokens + group_bytes, kTileRowBytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
}

/// Sums of one or two groups of tokens: [group][half of the rows].
using GroupSums = TileSums[2];

/// totals += the panel's product, NVFP4.
inline void add_panel(const TilePanel& panel, int64_t size, const std::byte* right, int64_t group_bytes,
                      bool two_groups, GroupSums* totals) {
  finish_stores();
  _tile_loadd(0, totals[0][0].at, kTileRowBytes);
  _tile_loadd(2, totals[0][1].at, kTileRowBytes);
  if (two_groups) {
    _tile_loadd(1, totals[1][0].at, kTileRowBytes);
    _tile_loadd(3, totals[1][1].at, kTileRowBytes);
  }
  add_steps(panel, 0, (size + kTileK - 1) / kTileK, right, group_bytes, two_groups);
  _tile_stored(0, totals[0][0].at, kTileRowBytes);
  _tile_stored(2, totals[0][1].at, kTileRowBytes);
  if (two_groups) {
    _tile_stored(1, totals[1][0].at, kTileRowBytes);
    _tile_stored(3, totals[1][1].at, kTileRowBytes);
  }
  finish_stores();
}

/// totals += scale * block for each block of 128 columns of the panel, FP8. `scales` has those of the panel's
/// rows, a column of it for each block.
inline void add_scaled_panel(const TilePanel& panel, int64_t size, const std::byte* right,
                             int64_t group_bytes, bool two_groups,
                             const float (&scales)[kPanelK / kFp8BlockGrain][kPanelRows], GroupSums* totals) {
  constexpr int64_t kStepsPerBlock = kFp8BlockGrain / kTileK;
  const int64_t steps = (size + kTileK - 1) / kTileK;
  for (int64_t begin = 0; begin < steps; begin += kStepsPerBlock) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    finish_stores();
    add_steps(panel, begin, std::min(steps, begin + kStepsPerBlock), right, group_bytes, two_groups);
    GroupSums block[2];
    _tile_stored(0, block[0][0].at, kTileRowBytes);
    _tile_stored(1, block[1][0].at, kTileRowBytes);
    _tile_stored(2, block[0][1].at, kTileRowBytes);
    _tile_stored(3, block[1][1].at, kTileRowBytes);
    finish_stores();
    const float* scale = scales[begin / kStepsPerBlock];
    for (int group = 0; group < (two_groups ? 2 : 1); ++group) {
      for (int64_t r = 0; r < kPanelRows; ++r) {
        float* total = totals[group][r / kTileRows].at + r % kTileRows * kTileRows;
        const float* sum = block[group][r / kTileRows].at + r % kTileRows * kTileRows;
        store(total, fma(splat(scale[r]), load(sum), load(total)));
      }
    }
  }
}

/// Rows [o, o + 32) of w against one pass of tokens: their sums, all of k.
inline void multiply_panels(const std::byte* x, int64_t token_bytes, int64_t tokens, const Weight& w,
                            int64_t o, GroupSums* totals) {
  const int64_t group_bytes = kTileRows * token_bytes;
  TilePanel panel;
  for (int64_t k = 0; k < w.cols; k += kPanelK) {
    const int64_t size = std::min(kPanelK, w.cols - k);
    decode_panel(w, o, k, size, panel);
    float scales[kPanelK / kFp8BlockGrain][kPanelRows] = {};
    if (w.form == WeightForm::kFp8) {
      for (int64_t r = 0; r < std::min(kPanelRows, w.rows - o); ++r) {
        for (int64_t i = 0; i < size; i += kFp8BlockGrain)
          scales[i / kFp8BlockGrain][r] = w.block_scales(o + r)[(k + i) / w.block_cols];
      }
    }
    for (int64_t t = 0; t < tokens; t += 2 * kTileRows) {
      const std::byte* right = x + t * token_bytes + k * kTileRows * static_cast<int64_t>(sizeof(Bf16));
      const bool two_groups = tokens - t > kTileRows;
      GroupSums* group = totals + t / kTileRows;
      if (w.form == WeightForm::kFp8) {
        add_scaled_panel(panel, size, right, group_bytes, two_groups, scales, group);
      } else {
        add_panel(panel, size, right, group_bytes, two_groups, group);
      }
    }
  }
}

/// y = x W^T for an FP8 or NVFP4 weight. x: groups of 16 tokens as pack_tile_row makes them, 16 * row_bytes
/// apart.
template <typename Out>
void multiply_code_tiles(const std::byte* x, int64_t row_bytes, int64_t tokens, const Weight& w, Out* y,
                         int64_t y_stride) {
  const TileScope scope;
  const Vec factor = splat(static_cast<float>(w.global));
  GroupSums totals[kPanelTokens / kTileRows];
  for (int64_t o = 0; o < w.rows; o += kPanelRows) {
    for (int64_t t = 0; t < tokens; t += kPanelTokens) {
      const int64_t pass = std::min(kPanelTokens, tokens - t);
      const int64_t groups = (pass + kTileRows - 1) / kTileRows;
      std::memset(totals, 0, static_cast<size_t>(groups) * sizeof *totals);
      multiply_panels(x + t * row_bytes, row_bytes, pass, w, o, totals);
      for (int64_t i = 0; i < groups * 2; ++i) {
        TileSums& sums = totals[i / 2][i % 2];
        const int64_t first_token = i / 2 * kTileRows;
        const int64_t first_row = i % 2 * kTileRows;
        if (o + first_row >= w.rows) continue;
        if (w.form == WeightForm::kNvfp4) {
          for (int64_t r = 0; r < kTileRows; ++r) {
            float* row = sums.at + r * kTileRows;
            store(row, load(row) * factor);
          }
        }
        store_tile(sums.at, pass - first_token, w.rows - o - first_row,
                   y + (t + first_token) * y_stride + o + first_row, y_stride);
      }
    }
  }
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
