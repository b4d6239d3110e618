// Which of the tuned kernels take a call: the fused one where a launch has a token a sequence and
// decode_is_fastest, else scores in chunks of scratch and then the top-k of each.

#include "kernels/cuda/select_tuned.h"

#include <algorithm>

#include "kernels/cuda/cluster_choice.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tile.h"

namespace fulgur::cuda {
namespace {

constexpr int64_t kAlignment = 128;  // of each of two arrays of scratch

template <typename Op>
bool takes(const Op& op) {
  return op.batch.first_position == 0 && op.keys.dtype == DType::kF8E4M3 && op.q.dtype == DType::kF8E4M3 &&
         op.shape.head_dim == 128 && (op.shape.num_heads == 64 || op.shape.num_heads == 32) &&
         op.batch.max_context <= (1 << 19) && op.q.stride % 16 == 0 &&
         reinterpret_cast<uintptr_t>(op.q.data) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(op.keys.data) % 16 == 0;
}

template <typename Op>
DecodeArguments arguments_of(const Op& op) {
  const TokenBatch& batch = op.batch;
  DecodeArguments arguments{};
  arguments.scores = {.q = op.q.data,
                      .q_stride_bytes = op.q.stride,
                      .head_weights = op.head_weights.data,
                      .weight_stride = op.head_weights.stride,
                      .keys = static_cast<const uint8_t*>(op.keys.data),
                      .rows = {.position = batch.position,
                               .sequence = batch.sequence,
                               .pages = batch.pages.data,
                               .page_stride = static_cast<int32_t>(batch.pages.stride),
                               .num_rows = batch.num_tokens,
                               .max_context = batch.max_context}};
  arguments.num_heads = op.shape.num_heads;
  arguments.tokens_per_sequence = rows_that_share(batch.num_tokens, batch.num_sequences);
  return arguments;
}

bool is_decode(const TokenBatch& batch) { return batch.num_tokens <= kMostDecodeRows * batch.num_sequences; }

int64_t score_stride(int64_t max_context) { return (max_context + 3) / 4 * 4; }
int64_t prompt_row_bytes(int num_heads) { return static_cast<int64_t>(prompt_scratch_bytes(num_heads, 1)); }
/// Of `rows` rows, aligned; null for decode.
void* allocate_prompt_scratch(Arena& arena, int num_heads, int64_t rows, bool decode) {
  if (decode) return nullptr;
  void* scratch = arena.allocate(static_cast<size_t>(rows * prompt_row_bytes(num_heads) + kAlignment));
  return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(scratch) + kAlignment - 1) / kAlignment *
                                 kAlignment);
}
/// As many rows as a budget of scratch allows, of `row_bytes` each. Decode has one array, which arenas align:
/// 128 rows of 128k take all of 64 MiB.
int64_t rows_within(int64_t budget, int64_t row_bytes, int64_t rows, bool decode) {
  return std::clamp<int64_t>((budget - (decode ? 0 : 2 * kAlignment)) / row_bytes, 1, rows);
}

/// Scores of all rows of the launch, by the kernel for few or many rows a sequence.
void launch_scores(const DecodeArguments& arguments, bool decode, void* prompt_scratch, float* scores,
                   int64_t stride, const LaunchOptions& options) {
  check(decode ? launch_row_scores(arguments, scores, stride, options)
               : launch_prompt_scores(arguments.scores, arguments.num_heads, prompt_scratch, scores, stride,
                                      options),
        "the kernel indexer_scores");
}

}  // namespace

bool tuned_takes(const IndexerSelect& op) {
  return takes(op) && op.selected.stride == op.selected.cols &&
         (op.slots.data == nullptr || op.slots.stride == op.slots.cols) && topk_takes(op.batch.max_context);
}
bool tuned_takes(const IndexerScores& op) { return takes(op); }

int64_t tuned_least_scratch(const IndexerShape& shape, int64_t max_context) {
  return score_stride(max_context) * static_cast<int64_t>(sizeof(float)) + prompt_row_bytes(shape.num_heads) +
         2 * kAlignment;
}

void select_tuned(Context& context, const IndexerSelect& op) {
  const Stream& stream = *context.stream;
  const LaunchOptions options{.stream = stream.main(), .pdl = stream.pdl(), .early_keys = stream.pdl()};
  DecodeArguments arguments = arguments_of(op);
  arguments.scores.unscored = static_cast<int32_t>(op.selected.cols);
  arguments.out = {.topk = static_cast<int32_t>(op.selected.cols),
                   .positions = op.selected.data,
                   .slots = op.slots.data,
                   .fault = op.batch.fault};
  const bool decode = is_decode(op.batch);
  if (decode && decode_is_fastest(arguments)) {
    check(launch_decode(arguments, options), "the kernel indexer_decode");
    return;
  }
  const int64_t stride = score_stride(op.batch.max_context);
  const int64_t row_bytes =
      stride * static_cast<int64_t>(sizeof(float)) + (decode ? 0 : prompt_row_bytes(arguments.num_heads));
  const int64_t chunk = tile_rows(
      op.batch.num_tokens, rows_within(context.index_scratch_bytes, row_bytes, op.batch.num_tokens, decode));
  const ArenaScope scope(*context.arena);
  float* scores = context.arena->allocate_array<float>(chunk * stride);
  void* prompt_scratch = allocate_prompt_scratch(*context.arena, arguments.num_heads, chunk, decode);
  for (int64_t first = 0; first < op.batch.num_tokens; first += chunk) {
    const DecodeArguments rows =
        rows_of(arguments, first, std::min<int64_t>(chunk, op.batch.num_tokens - first));
    if (op.batch.max_context > arguments.out.topk) {
      launch_scores(rows, decode, prompt_scratch, scores, stride, options);
    }
    check(launch_topk({scores, stride, rows.scores.rows, rows.out}, options), "the kernel indexer_topk");
  }
}

void scores_tuned(Context& context, const IndexerScores& op) {
  const Stream& stream = *context.stream;
  const LaunchOptions options{.stream = stream.main(), .pdl = false};
  const DecodeArguments arguments = arguments_of(op);
  check(cudaMemset2DAsync(op.scores.data, static_cast<size_t>(op.scores.stride) * sizeof(float), 0,
                          static_cast<size_t>(op.scores.cols) * sizeof(float),
                          static_cast<size_t>(op.scores.rows), stream.main()),
        "cudaMemset2DAsync");
  const ArenaScope scope(*context.arena);
  const bool decode = is_decode(op.batch);
  const int64_t chunk = decode
                            ? op.batch.num_tokens
                            : rows_within(context.index_scratch_bytes, prompt_row_bytes(arguments.num_heads),
                                          op.batch.num_tokens, decode);
  void* prompt_scratch = allocate_prompt_scratch(*context.arena, arguments.num_heads, chunk, decode);
  for (int64_t first = 0; first < op.batch.num_tokens; first += chunk) {
    const DecodeArguments rows =
        rows_of(arguments, first, std::min<int64_t>(chunk, op.batch.num_tokens - first));
    launch_scores(rows, decode, prompt_scratch, op.scores.row(first), op.scores.stride, options);
  }
}

}  // namespace fulgur::cuda
