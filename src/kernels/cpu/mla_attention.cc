// Absorbed attention over cached entries, all positions or the selected ones; the arithmetic is
// mla_block.h's. Keys come in blocks, a page in dense attention and kSparseBlock entries of the list in
// sparse attention, so where a block begins depends on positions or on the list alone. Scratch: q, u, maximum
// and sum in f32 of the rows of one tile, and a block of FP8 entries as f32.

#include "kernels/cpu/kernel.h"
#include "kernels/cpu/mla_block.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

struct Grouping {
  int tokens_per_tile;
  int heads_per_group;
  int num_groups;
};

/// Groups of heads only where there are too few tiles for the threads: a group reads the entries for itself.
Grouping group(int num_heads, int tokens_per_tile, int64_t num_tiles, int num_threads) {
  const auto wanted = static_cast<int>(
      std::clamp<int64_t>((num_threads + num_tiles - 1) / std::max<int64_t>(num_tiles, 1), 1, num_heads));
  int heads = (num_heads + wanted - 1) / wanted;
  if (heads > kRowsAtOnce) heads = (heads + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce;
  return {tokens_per_tile, heads, (num_heads + heads - 1) / heads};
}

MlaRows allocate_rows(Arena& arena, const MlaProblem& problem, int64_t count) {
  MlaRows rows{};
  rows.q_stride = whole_chunks(problem.width());
  rows.u_stride = whole_chunks(problem.shape.kv_lora);
  rows.q = arena.allocate_array<float>(count * rows.q_stride);
  rows.u = arena.allocate_array<float>(count * rows.u_stride);
  rows.maximum = arena.allocate_array<float>(count);
  rows.sum = arena.allocate_array<float>(count);
  if (problem.latents.dtype == DType::kF8E4M3)
    rows.decoded = arena.allocate_array<float>(kMaxBlock * rows.q_stride);
  return rows;
}

void load_queries(const MlaProblem& problem, int64_t token, int first_head, int num_heads,
                  const MlaRows& rows, int64_t row) {
  const int width = problem.width();
  with_operand(problem.q.dtype, [&](auto element) {
    const auto* q = problem.q.row<const decltype(element)>(token) + int64_t{first_head} * width;
    for (int h = 0; h < num_heads; ++h)
      load_query(q + int64_t{h} * width, width, rows.q + (row + h) * rows.q_stride);
  });
}

void store_latents(const MlaProblem& problem, int64_t token, int first_head, int num_heads,
                   const MlaRows& rows, int64_t row) {
  const int kv_lora = problem.shape.kv_lora;
  bool nan = false;
  with_operand(problem.u.dtype, [&](auto element) {
    auto* u = problem.u.row<decltype(element)>(token) + int64_t{first_head} * kv_lora;
    for (int h = 0; h < num_heads; ++h) {
      const float sum = rows.sum[row + h];
      nan = nan || std::isnan(sum);
      store_latent(rows.u + (row + h) * rows.u_stride, sum, kv_lora, u + int64_t{h} * kv_lora);
    }
  });
  if (nan)
    std::atomic_ref(problem.batch.fault[problem.batch.sequence[token]])
        .fetch_or(kFaultNan, std::memory_order_relaxed);
}

template <typename T>
void attend_selected(const MlaProblem& problem, const Matrix<const int32_t>& selected, int64_t token,
                     int first_head, int num_heads, const MlaRows& rows) {
  load_queries(problem, token, first_head, num_heads, rows, 0);
  const int32_t* positions = selected.row(token);
  const int32_t* pages = problem.batch.pages.row(problem.batch.sequence[token]);
  EntryBlock<T> block(problem.width());
  for (int64_t begin = 0; begin < selected.cols && positions[begin] >= 0; begin += kSparseBlock) {
    block.clear();
    const int64_t end = std::min(begin + kSparseBlock, selected.cols);
    for (int64_t i = begin; i < end && positions[i] >= 0; ++i) {
      block.add(problem.latents, pages[positions[i] / kPageTokens], positions[i] % kPageTokens, rows.decoded);
    }
    attend(problem, rows, 0, num_heads, block, begin == 0);
  }
  store_latents(problem, token, first_head, num_heads, rows, 0);
}

/// MlaRows are token-major. A page that only the later tokens of the tile see whole goes through those at
/// once and through the others token by token, each with as many keys as it may read.
template <typename T>
void attend_all(const MlaProblem& problem, int64_t first_token, int num_tokens, int first_head, int num_heads,
                const MlaRows& rows) {
  const TokenBatch& batch = problem.batch;
  for (int t = 0; t < num_tokens; ++t) {
    load_queries(problem, first_token + t, first_head, num_heads, rows, int64_t{t} * num_heads);
  }
  const int32_t* positions = batch.position + first_token;
  const int32_t* pages = batch.pages.row(batch.sequence[first_token]);
  EntryBlock<T> block(problem.width());
  for (int32_t begin = 0; begin <= positions[num_tokens - 1]; begin += kPageTokens) {
    block.clear();
    const int skipped = begin == 0 ? batch.first_position : 0;
    int whole = 0;  // the first token that sees the whole page
    while (whole < num_tokens && positions[whole] < begin + kPageTokens - 1) ++whole;
    const int32_t page = pages[begin / kPageTokens];
    for (int t = 0; t < whole; ++t) {
      if (positions[t] < begin) continue;
      while (skipped + block.count <= positions[t] - begin) {
        block.add(problem.latents, page, skipped + block.count, rows.decoded);
      }
      attend(problem, rows, int64_t{t} * num_heads, int64_t{t + 1} * num_heads, block, begin == 0);
    }
    if (whole == num_tokens) continue;
    while (skipped + block.count < kPageTokens) {
      block.add(problem.latents, page, skipped + block.count, rows.decoded);
    }
    attend(problem, rows, int64_t{whole} * num_heads, int64_t{num_tokens} * num_heads, block, begin == 0);
  }
  for (int t = 0; t < num_tokens; ++t) {
    store_latents(problem, first_token + t, first_head, num_heads, rows, int64_t{t} * num_heads);
  }
}

/// f(T{}) with what the entries of a block are: Bf16, or float for those in f32 and FP8.
template <typename F>
void with_entries(const PagedLatents& latents, F&& f) {
  with_operand(latents.dtype == DType::kBf16 ? DType::kBf16 : DType::kF32, f);
}

/// FLOPs of `keys` keys for one token, 8 to a byte.
int64_t work_bytes(const MlaProblem& problem, int64_t keys) {
  return keys * problem.shape.num_heads * (2 * problem.shape.kv_lora + problem.shape.rope) / 4;
}

}  // namespace

void sparse_mla(Context& context, const SparseMla& op) {
  const MlaProblem problem{op.q, op.latents, op.batch, op.shape, op.scale, op.u};
  const int num_tokens = op.batch.num_tokens;
  const int num_heads = op.shape.num_heads;
  const Grouping grouping = group(num_heads, 1, num_tokens, context.team->size());
  const ArenaScope scope(*context.arena);
  MlaRows* rows = context.arena->table<MlaRows>(context.team->size());
  for (int member = 0; member < context.team->size(); ++member) {
    rows[member] = allocate_rows(*context.arena, problem, grouping.heads_per_group);
  }
  std::atomic<int> next{0};
  run_region(context, work_bytes(problem, num_tokens * op.selected.cols), [&](const Crew& crew) {
    for (int item = next++; item < num_tokens * grouping.num_groups; item = next++) {
      const int first_head = item % grouping.num_groups * grouping.heads_per_group;
      const int heads = std::min(grouping.heads_per_group, num_heads - first_head);
      with_entries(op.latents, [&](auto element) {
        attend_selected<decltype(element)>(problem, op.selected, item / grouping.num_groups, first_head,
                                           heads, rows[crew.member]);
      });
    }
  });
}

void dense_mla(Context& context, const DenseMla& op) {
  const MlaProblem problem{op.q, op.latents, op.batch, op.shape, op.scale, op.u};
  constexpr int64_t kTileBytes = int64_t{1} << 20;  // of q and u in f32, about half of a large L2
  constexpr int kMaxTileTokens = 16;
  struct Tile {
    int first_token;
    int num_tokens;
  };
  const TokenBatch& batch = op.batch;
  const int num_heads = op.shape.num_heads;
  const int size = context.team->size();
  const int64_t token_bytes =
      int64_t{num_heads} * (whole_chunks(problem.width()) + whole_chunks(op.shape.kv_lora)) * 4;
  const int limit = static_cast<int>(std::clamp<int64_t>(
      std::min<int64_t>(kTileBytes / token_bytes, batch.num_tokens / (4 * size)), 1, kMaxTileTokens));

  const ArenaScope scope(*context.arena);
  Tile* tiles = context.arena->table<Tile>(batch.num_tokens);
  int num_tiles = 0;
  int64_t keys = 0;
  for (int token = 0; token < batch.num_tokens; ++token) {
    keys += batch.position[token] + 1;
    Tile* last = num_tiles > 0 ? &tiles[num_tiles - 1] : nullptr;
    if (last != nullptr && last->num_tokens < limit &&
        batch.sequence[last->first_token] == batch.sequence[token]) {
      ++last->num_tokens;
    } else {
      tiles[num_tiles++] = {token, 1};
    }
  }
  const Grouping grouping = group(num_heads, limit, num_tiles, size);
  MlaRows* rows = context.arena->table<MlaRows>(size);
  for (int member = 0; member < size; ++member) {
    rows[member] = allocate_rows(*context.arena, problem, int64_t{limit} * grouping.heads_per_group);
  }
  std::atomic<int> next{0};
  run_region(context, work_bytes(problem, keys), [&](const Crew& crew) {
    for (int item = next++; item < num_tiles * grouping.num_groups; item = next++) {
      const Tile& tile = tiles[num_tiles - 1 - item / grouping.num_groups];  // the longest contexts first
      const int first_head = item % grouping.num_groups * grouping.heads_per_group;
      const int heads = std::min(grouping.heads_per_group, num_heads - first_head);
      with_entries(op.latents, [&](auto element) {
        attend_all<decltype(element)>(problem, tile.first_token, tile.num_tokens, first_head, heads,
                                      rows[crew.member]);
      });
    }
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
