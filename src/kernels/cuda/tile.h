#pragma once

#include <algorithm>

#include "base/dtype.h"
#include "base/matrix.h"
#include "ops/token_batch.h"

namespace fulgur::cuda {

/// Rows [first, first + count) of an operand.
inline Operand rows_of(Operand x, int64_t first, int64_t count) {
  x.data = static_cast<std::byte*>(x.data) + static_cast<size_t>(first * x.stride) * size_bytes(x.dtype);
  x.rows = count;
  return x;
}

/// Rows of each tile (the last has fewer by less than there are tiles) of as few as hold `most` at most:
/// alike, since what a prompt leaves for a last tile must not look like decode.
constexpr int64_t tile_rows(int64_t rows, int64_t most) {
  const int64_t tiles = std::max<int64_t>((rows + most - 1) / most, 1);
  return (rows + tiles - 1) / tiles;
}

/// f(rows [first, ...) of the batch as a batch of their own, first) for tiles of at most `most_tokens`.
template <typename F>
void for_each_tile(const TokenBatch& batch, int64_t most_tokens, F&& f) {
  const int64_t tile_tokens = tile_rows(batch.num_tokens, most_tokens);
  for (int64_t first = 0; first < batch.num_tokens; first += tile_tokens) {
    TokenBatch tile = batch;
    tile.num_tokens = static_cast<int>(std::min(tile_tokens, batch.num_tokens - first));
    tile.token += first;
    tile.position += first;
    tile.sequence += first;
    f(tile, first);
  }
}

}  // namespace fulgur::cuda
