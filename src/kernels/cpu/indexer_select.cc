// The lightning indexer's second half: scores of the step's queries against all cached keys, and the top-k of
// each row.
//
// Rows of one sequence go in tiles of up to kRowsPerTile, so that a page of keys is read from memory once a
// tile. With more tiles than threads each thread takes whole tiles, the longest contexts first; with fewer
// (decoding) the pages of all tiles are shared out, then the rows. The context goes by in segments: after
// each, a row keeps its best index_topk so far, and the next segment competes with them. Segments are as long
// and tiles as high as Context::index_scratch_bytes allows, up to kSegmentKeys and kRowsPerTile: 8 MiB of
// scores a thread and 2 MiB for the search. Rows that may read everything aren't scored.
//
// Cost a row: position * nI * dI multiply-adds, 2 dI bytes a key from the page (of L1 and L2), two passes
// over the scores.

#include "kernels/cpu/indexer_scoring.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/top_k.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

constexpr int kRowsPerTile = 16;
constexpr int64_t kSegmentKeys = int64_t{1} << 17;  // kRowsPerTile rows of it are 8 MiB

/// Consecutive rows of one sequence, all of which need scores.
struct RowTile {
  int first_row;
  int num_rows;
};

int64_t whole_pages(int64_t positions) { return (positions + kPageTokens - 1) / kPageTokens; }

/// How tiles and segments are cut, and what a thread's share of them takes.
struct Cut {
  int rows;         // of a tile, at most
  int64_t segment;  // keys, whole pages
  int64_t carried;  // scores of a row kept from earlier segments: right-aligned before the segment, in whole
                    // blocks of the search; 0 where there is but one segment
  int64_t row_length;

  /// For rows of `context` keys at most. Kept scores, and what is skipped at the start (`late`), move the
  /// search's padding behind the segment.
  Cut(int rows, int64_t segment, int64_t context, int64_t topk, bool late)
      : rows(rows),
        segment(segment),
        carried(context > segment ? whole_pages(topk) * kPageTokens : 0),
        row_length(carried + segment + (late || carried > 0 ? kPageTokens : 0)) {}

  /// Of each thread: a tile's scores and kept positions, and one search.
  [[nodiscard]] int64_t bytes(const IndexerShape& shape, int64_t topk) const;
};

/// Where a page of FP8 keys is decoded to; null for other keys.
Bf16* allocate_page(Arena& arena, const PagedKeys& keys) {
  return keys.dtype == DType::kF8E4M3 ? arena.allocate_array<Bf16>(keys.page_elements()) : nullptr;
}

/// What a row still has to say when its context is longer than a segment.
struct RowState {
  int32_t kept;  // scores carried over, at kept_positions
  bool failed;   // a NaN was met
};

/// The scratch of one tile's scores. A row's array is its `kept` best of earlier segments and behind them,
/// from `carried` on, the segment's.
struct TileScores {
  float* scores;            // [rows, row_length]
  int32_t* kept_positions;  // [rows, carried]
  RowState states[kRowsPerTile];
};

int64_t Cut::bytes(const IndexerShape& shape, int64_t topk) const {
  constexpr int64_t kAlignments = 8 * 64;  // the arena's, an array each
  const PagedKeys page{.width = shape.head_dim};
  return kAlignments + static_cast<int64_t>(sizeof(TileScores)) +
         rows * (row_length + carried) * static_cast<int64_t>(sizeof(float)) +
         static_cast<int64_t>(TopK::scratch_bytes(row_length)) +
         IndexerQueries::elements(shape, rows) * static_cast<int64_t>(sizeof(float)) +
         topk * static_cast<int64_t>(sizeof(int32_t)) +
         page.page_elements() * static_cast<int64_t>(sizeof(Bf16));
}

/// The best cut whose share fits in `most` bytes. A tile loses rows before a segment becomes so short that
/// searching the kept scores anew would cost more than the new ones.
Cut cut_for(const IndexerShape& shape, int64_t topk, int64_t context, bool late, int rows, int64_t most) {
  const int64_t longest = std::min(kSegmentKeys, whole_pages(context) * kPageTokens);
  const int64_t worthwhile = std::min(longest, whole_pages(4 * topk) * kPageTokens);
  Cut cut(rows, longest, context, topk, late);
  while (cut.bytes(shape, topk) > most && (cut.rows > 1 || cut.segment > kPageTokens)) {
    if (cut.segment > worthwhile || cut.rows == 1) {
      const int64_t half = whole_pages(cut.segment / 2) * kPageTokens;
      const int64_t least = cut.rows == 1 ? kPageTokens : worthwhile;
      cut = Cut(cut.rows, std::max(half, least), context, topk, late);
    } else {
      cut = Cut(cut.rows / 2, longest, context, topk, late);
    }
  }
  return cut;
}

class Selection {
 public:
  Selection(Context& context, const IndexerSelect& op) : op_(op), topk_(op.selected.cols) {
    Arena& arena = *context.arena;
    const int size = context.team->size();
    for (int row = 0; row < op.batch.num_tokens; ++row) {
      if (candidates(row) <= topk_) continue;
      const int64_t length = int64_t{op.batch.position[row]} + 1;
      scored_keys_ += length;
      longest_ = std::max(longest_, length);
    }
    if (longest_ == 0) return;
    // Small enough that every thread has a few.
    const int wanted_rows = std::clamp(op.batch.num_tokens / (4 * size), 1, kRowsPerTile);
    const Cut cut = cut_for(op.shape, topk_, longest_, op.batch.first_position > 0, wanted_rows,
                            context.index_scratch_bytes / size);
    segment_ = cut.segment;
    carried_ = cut.carried;
    row_length_ = cut.row_length;
    find_tiles(arena, cut.rows);
    num_slots_ = std::min(num_tiles_, size);
    tiles_scores_ = arena.table<TileScores>(num_slots_);
    for (int slot = 0; slot < num_slots_; ++slot) {
      tiles_scores_[slot].scores = arena.allocate_array<float>(cut.rows * row_length_);
      tiles_scores_[slot].kept_positions = arena.allocate_array<int32_t>(cut.rows * carried_);
    }
    members_ = arena.table<Member>(size);
    for (int member = 0; member < size; ++member) {
      members_[member].queries = arena.allocate_array<float>(IndexerQueries::elements(op.shape, cut.rows));
      members_[member].search = arena.allocate(TopK::scratch_bytes(row_length_));
      members_[member].best = arena.allocate_array<int32_t>(topk_);
      members_[member].page = allocate_page(arena, op.keys);
    }
  }

  /// 8 FLOPs count as a byte.
  [[nodiscard]] int64_t work_bytes() const {
    return scored_keys_ * op_.shape.num_heads * op_.shape.head_dim / 4 + op_.selected.rows * topk_;
  }

  void run(const Crew& crew) {
    const Share rows = crew.share(op_.batch.num_tokens);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      if (candidates(row) <= topk_) take_all(row);
    }
    if (num_tiles_ == 0) return;
    if (num_tiles_ > crew.size) {
      take_whole_tiles(crew);
    } else {
      share_tiles(crew);
    }
  }

  /// The selected positions, when all are there, as slots of the caches.
  void write_slots(const Crew& crew) const {
    const Share rows = crew.share(op_.batch.num_tokens);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      const int32_t* pages = op_.batch.pages.row(op_.batch.sequence[row]);
      for (int64_t i = 0; i < topk_; ++i) {
        const int32_t position = op_.selected.row(row)[i];
        op_.slots.row(row)[i] =
            position < 0 ? -1 : pages[position / kPageTokens] * kPageTokens + position % kPageTokens;
      }
    }
  }

 private:
  struct Member {
    float* queries;  // [rows, nI, dI]
    void* search;
    int32_t* best;  // [topk]
    Bf16* page;     // of FP8 keys, decoded
  };

  [[nodiscard]] int64_t candidates(int64_t row) const {
    return int64_t{op_.batch.position[row]} + 1 - op_.batch.first_position;
  }

  void find_tiles(Arena& arena, int limit) {
    const TokenBatch& batch = op_.batch;
    tiles_ = arena.table<RowTile>(batch.num_tokens);
    for (int row = 0; row < batch.num_tokens; ++row) {
      if (candidates(row) <= topk_) continue;
      RowTile* last = num_tiles_ > 0 ? &tiles_[num_tiles_ - 1] : nullptr;
      if (last != nullptr && last->first_row + last->num_rows == row && last->num_rows < limit &&
          batch.sequence[last->first_row] == batch.sequence[row]) {
        ++last->num_rows;
      } else {
        tiles_[num_tiles_++] = {row, 1};
      }
    }
  }

  void take_all(int64_t row) const {
    int32_t* out = op_.selected.row(row);
    const int64_t count = candidates(row);
    for (int32_t i = 0; i < topk_; ++i) out[i] = i < count ? op_.batch.first_position + i : -1;
  }

  [[nodiscard]] int64_t context_of(const RowTile& tile) const {
    return int64_t{op_.batch.position[tile.first_row + tile.num_rows - 1]} + 1;
  }
  /// Pages of [begin, begin + segment_) that hold a key of the tile's last row.
  [[nodiscard]] int64_t pages_in_segment(const RowTile& tile, int64_t begin) const {
    return whole_pages(std::clamp<int64_t>(context_of(tile) - begin, 0, segment_));
  }

  void take_whole_tiles(const Crew& crew) {
    TileScores& scores = tiles_scores_[crew.member];
    while (true) {
      const int taken = next_tile_.fetch_add(1, std::memory_order_relaxed);
      if (taken >= num_tiles_) return;
      const RowTile& tile = tiles_[num_tiles_ - 1 - taken];
      start(scores);
      for (int64_t begin = 0; begin < context_of(tile); begin += segment_) {
        score_pages(crew, tile, scores, begin, 0, pages_in_segment(tile, begin));
        for (int i = 0; i < tile.num_rows; ++i) advance_row(crew, tile, scores, i, begin);
      }
    }
  }

  void share_tiles(const Crew& crew) {
    if (crew.member == 0) {
      for (int t = 0; t < num_tiles_; ++t) start(tiles_scores_[t]);
    }
    for (int64_t begin = 0; begin < longest_; begin += segment_) {
      int64_t total = 0;
      for (int t = 0; t < num_tiles_; ++t) total += tiles_[t].num_rows * pages_in_segment(tiles_[t], begin);
      const Share share = crew.share(total);
      int64_t before = 0;
      for (int t = 0; t < num_tiles_; ++t) {
        const int rows = tiles_[t].num_rows;
        const int64_t pages = pages_in_segment(tiles_[t], begin);
        // A page belongs to whoever has its first row.
        const int64_t first = std::clamp<int64_t>((share.begin - before + rows - 1) / rows, 0, pages);
        const int64_t last = std::clamp<int64_t>((share.end - before + rows - 1) / rows, 0, pages);
        if (first < last) score_pages(crew, tiles_[t], tiles_scores_[t], begin, first, last);
        before += rows * pages;
      }
      crew.barrier();
      int64_t row = 0;
      for (int t = 0; t < num_tiles_; ++t) {
        for (int i = 0; i < tiles_[t].num_rows; ++i, ++row) {
          if (row % crew.size == crew.member) advance_row(crew, tiles_[t], tiles_scores_[t], i, begin);
        }
      }
      if (begin + segment_ < longest_) crew.barrier();
    }
  }

  static void start(TileScores& scores) {
    for (RowState& state : scores.states) state = {0, false};
  }

  /// Pages [first, last) of the segment that starts at position `begin`, for every row of the tile that
  /// reaches them.
  void score_pages(const Crew& crew, const RowTile& tile, const TileScores& scores, int64_t begin,
                   int64_t first, int64_t last) {
    with_key(op_.keys.dtype, [&](auto element) {
      const IndexerQueries queries(op_.shape, members_[crew.member].queries);
      for (int i = 0; i < tile.num_rows; ++i) queries.load_row(i, op_.q, tile.first_row + i);
      const int32_t* pages = op_.batch.pages.row(op_.batch.sequence[tile.first_row]);
      // Worked out once: reading the batch again for each page cost 70% of the op's time (GCC 12, AVX2).
      float* out = scores.scores + carried_;
      const int64_t stride = row_length_;
      for (int64_t p = first; p < last; ++p) {
        const int64_t position = begin + p * kPageTokens;
        with_page(op_.keys, element, pages[position / kPageTokens], members_[crew.member].page,
                  [&](const auto* page, const auto& finish) {
                    for (int i = 0; i < tile.num_rows; ++i) {
                      const int64_t row = tile.first_row + i;
                      if (op_.batch.position[row] < position) continue;
                      float* scores = out + i * stride + p * kPageTokens;
                      score_page(queries, i, op_.head_weights.row(row), page, scores);
                      finish(scores);
                    }
                  });
      }
    });
  }

  /// The segment's scores of row `i` meet those kept: either the row is done, or its best are kept for the
  /// next segment.
  void advance_row(const Crew& crew, const RowTile& tile, TileScores& tile_scores, int i, int64_t begin) {
    const int64_t row = tile.first_row + i;
    const int64_t context = int64_t{op_.batch.position[row]} + 1;
    RowState& state = tile_scores.states[i];
    if (context <= begin || state.failed) return;
    int32_t* out = op_.selected.row(row);
    // Scores before first_position are of no key.
    const int64_t skipped = begin == 0 ? op_.batch.first_position : 0;
    float* scores = tile_scores.scores + i * row_length_ + carried_ - state.kept + skipped;
    int32_t* kept_positions = tile_scores.kept_positions + i * carried_;
    const int64_t n = state.kept + std::min(context - begin, segment_) - skipped;
    const bool last = context <= begin + segment_;
    int32_t* best = begin == 0 && last && skipped == 0 ? out : members_[crew.member].best;

    TopK search(row_length_, members_[crew.member].search);
    if (!search.select(scores, n, topk_, best)) {
      state.failed = true;
      for (int64_t j = 0; j < topk_; ++j) out[j] = -1;
      std::atomic_ref(op_.batch.fault[op_.batch.sequence[row]])
          .fetch_or(kFaultNan, std::memory_order_relaxed);
      return;
    }
    if (best == out) return;
    const auto position_of = [&](int32_t index) {
      return index < state.kept ? kept_positions[index]
                                : static_cast<int32_t>(begin + skipped + index - state.kept);
    };
    const auto count = static_cast<int32_t>(std::min(n, topk_));
    if (last) {
      for (int32_t j = 0; j < count; ++j) out[j] = position_of(best[j]);
      return;
    }
    // Ascending indices: each is at or behind the place it goes to.
    for (int32_t j = 0; j < count; ++j) {
      const int32_t position = position_of(best[j]);
      scores[j] = scores[best[j]];
      best[j] = position;
    }
    std::memmove(tile_scores.scores + i * row_length_ + carried_ - count, scores,
                 static_cast<size_t>(count) * sizeof(float));
    std::memcpy(kept_positions, best, static_cast<size_t>(count) * sizeof(int32_t));
    state.kept = count;
  }

  const IndexerSelect& op_;
  const int64_t topk_;
  RowTile* tiles_ = nullptr;
  int num_tiles_ = 0;
  int num_slots_ = 0;
  int64_t longest_ = 0;      // context of a scored row
  int64_t scored_keys_ = 0;  // over all rows
  int64_t segment_ = 0;
  int64_t carried_ = 0;
  int64_t row_length_ = 0;
  TileScores* tiles_scores_ =
      nullptr;  // [num_slots_]: one a thread, or one a tile where there are fewer tiles
  Member* members_ = nullptr;
  std::atomic<int> next_tile_{0};
};

}  // namespace

int64_t least_index_scratch(const IndexerShape& shape, int64_t topk, int64_t /*max_context*/, int threads) {
  // The longest contexts there may be, in the smallest pieces.
  return threads * Cut(1, kPageTokens, std::numeric_limits<int64_t>::max(), topk, true).bytes(shape, topk);
}

void indexer_select(Context& context, const IndexerSelect& op) {
  const ArenaScope scope(*context.arena);
  Selection selection(context, op);
  run_region(context, selection.work_bytes(), [&](const Crew& crew) {
    selection.run(crew);
    if (op.slots.data == nullptr) return;
    crew.barrier();
    selection.write_slots(crew);
  });
}

void indexer_scores(Context& context, const IndexerScores& op) {
  const ArenaScope scope(*context.arena);
  const int64_t row_elements = IndexerQueries::elements(op.shape, 1);
  const int size = context.team->size();
  float* queries_of_all = context.arena->allocate_array<float>(row_elements * size);
  Bf16** decoded = context.arena->table<Bf16*>(size);
  for (int member = 0; member < size; ++member) decoded[member] = allocate_page(*context.arena, op.keys);
  const int64_t work = op.scores.rows * op.scores.cols * op.shape.num_heads * op.shape.head_dim / 8;
  run_region(context, work, [&](const Crew& crew) {
    const IndexerQueries queries(op.shape, queries_of_all + crew.member * row_elements);
    const Share rows = crew.share(op.scores.rows);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      queries.load_row(0, op.q, row);
      const int32_t* pages = op.batch.pages.row(op.batch.sequence[row]);
      const int64_t context_length = int64_t{op.batch.position[row]} + 1;
      float* out = op.scores.row(row);
      for (int64_t begin = 0; begin < context_length; begin += kPageTokens) {
        alignas(64) float scores[kPageTokens];
        with_key(op.keys.dtype, [&](auto element) {
          with_page(op.keys, element, pages[begin / kPageTokens], decoded[crew.member],
                    [&](const auto* page, const auto& finish) {
                      score_page(queries, 0, op.head_weights.row(row), page, scores);
                      finish(scores);
                    });
        });
        const int64_t count = std::min<int64_t>(context_length - begin, kPageTokens);
        std::memcpy(out + begin, scores, static_cast<size_t>(count) * sizeof(float));
      }
      std::fill(out, out + op.batch.first_position, 0.0F);
      std::fill(out + context_length, out + op.scores.cols, 0.0F);
    }
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
