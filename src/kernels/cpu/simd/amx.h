#pragma once

// AMX-BF16. Tiles 0..3 are sums [16 weight rows, 16 tokens] f32, 4 and 5 weights [16 rows, 32 k] bf16 as
// stored, 6 and 7 activations [16 pairs of k, 16 tokens, 2] bf16 (Intel SDM, TDPBF16PS: sum[m][n] += a[m][2k]
// b[k][2n] + a[m][2k+1] b[k][2n+1]).

namespace fulgur::cpu::FULGUR_CPU_ISA {

constexpr int kTileRows = 16;      // of any tile
constexpr int kTileRowBytes = 64;  // 32 bf16 or 16 f32
constexpr int kTileK = 32;         // products of bf16 a TDPBF16PS sums in each element

/// The palette-1 configuration (Intel SDM, LDTILECFG).
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

/// Configures all eight tiles of this thread at full size; releases them at the end of the scope.
class TileScope {
 public:
  TileScope() {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = kTileRowBytes;
      config.rows[tile] = kTileRows;
    }
    // GCC's _tile_loadconfig says that it reads eight bytes of it, so the rest need not be there.
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  ~TileScope() { _tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// Before a tile is loaded from memory written here: GCC's _tile_loadd does not say that it reads memory.
inline void finish_stores() { __asm__ volatile("" : : : "memory"); }

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
