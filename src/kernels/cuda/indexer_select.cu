// The lightning indexer's second half, for any shape: scores of a chunk of rows, then the exact top-k of
// each.
//
// Rows go in chunks whose scores fit Context::index_scratch_bytes, so no [M, N] matrix exists. A block scores
// a row against a page: the page's keys and the row's queries lie in shared memory in f32, a thread has a key
// and a share of the heads, the shares are added in a fixed order. Then a block selects a row: four passes
// over the scores count the digits of order-preserving keys and find the k-th best, one pass writes positions
// in ascending order, of equal scores the first. Counts are integers, so their order doesn't matter.
//
// Cost a row: position * nI * dI multiply-adds in f32; each page is read once a row, from L2; 6 passes of 4
// bytes a score.

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/index_keys.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/select_tuned.h"
#include "kernels/cuda/stream_launch.h"

namespace fulgur::cuda {
namespace {

constexpr int64_t kArenaGrain = 64;        // bytes that an allocation is rounded up to
constexpr int64_t kMostChunkRows = 32768;  // a grid's second dimension
constexpr int kShares = 4;                 // of the heads, in a block that scores a page
constexpr int kScoreThreads = kShares * kPageTokens;
constexpr int kSelectThreads = 512;

struct ScoreArgs {
  Operand q;
  Matrix<const float> head_weights;
  PagedKeys keys;
  IndexerShape shape;
  TokenBatch batch;
  Matrix<float> scores;  // row 0 is row first_row of the batch
  int64_t first_row;
  int64_t unscored;  // rows with no more candidates need no scores
};

size_t score_shared_bytes(const IndexerShape& shape) {
  const int64_t floats = int64_t{shape.num_heads} * shape.head_dim + shape.num_heads +
                         int64_t{kPageTokens} * (shape.head_dim + 1) + kScoreThreads;
  return static_cast<size_t>(floats) * sizeof(float);
}

/// Block (page of the sequence, row). Columns of a page before first_position or past position[t] become 0,
/// as do all of a later one.
template <typename T>
__global__ void __launch_bounds__(kScoreThreads) score_kernel(ScoreArgs args) {
  extern __shared__ float shared[];
  wait_for_predecessor();
  allow_successor();
  const int64_t t = args.first_row + blockIdx.y;
  const int32_t context = args.batch.position[t] + 1;
  const int32_t start = args.batch.first_position;
  if (context - start <= args.unscored) return;

  const int heads = args.shape.num_heads;
  const int dim = args.shape.head_dim;
  const auto thread = static_cast<int>(threadIdx.x);
  const int slot = thread % kPageTokens;
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * kPageTokens;
  const int64_t column = begin + slot;
  float* out = args.scores.row(blockIdx.y) + column;
  if (begin >= context) {
    if (thread < kPageTokens && column < args.scores.cols) *out = 0;
    return;
  }

  const int stride = dim + 1;                   // lanes are keys: one bank each
  float* q = shared;                            // [nI, dI]
  float* weights = q + int64_t{heads} * dim;    // [nI]
  float* keys = weights + heads;                // [64, stride]
  float* shares = keys + kPageTokens * stride;  // [kShares, 64]
  const int32_t page = page_of(args.batch, t, begin);
  const T* q_row = args.q.row<const T>(t);
  for (int i = thread; i < heads * dim; i += kScoreThreads) q[i] = load(q_row + i);
  for (int i = thread; i < heads; i += kScoreThreads) weights[i] = args.head_weights.row(t)[i];
  for (int i = thread; i < kPageTokens * dim; i += kScoreThreads) {
    // Neighbouring threads read neighbouring components of FP8 keys, neighbouring tokens of the others.
    constexpr bool kFp8 = std::is_same_v<T, E4m3>;
    const int token = kFp8 ? i / dim : i % kPageTokens;
    const int component = kFp8 ? i % dim : i / kPageTokens;
    keys[token * stride + component] = key_component<T>(args.keys, page, token, component);
  }
  __syncthreads();

  float share = 0;
  const float* key = keys + slot * stride;
  for (int h = thread / kPageTokens; h < heads; h += kShares) {
    float dot = 0;
    for (int i = 0; i < dim; ++i) dot = fmaf(q[h * dim + i], key[i], dot);
    // A NaN stays one: fmaxf would drop it.
    share = fmaf(weights[h], dot < 0 ? 0.0F : dot, share);
  }
  shares[thread] = share;
  __syncthreads();
  if (thread >= kPageTokens || column >= args.scores.cols) return;
  float score = shares[slot];
  for (int i = 1; i < kShares; ++i) score += shares[i * kPageTokens + slot];
  if constexpr (std::is_same_v<T, E4m3>) score *= fp8_scales(args.keys, page)[slot];
  *out = column >= start && column < context ? score : 0.0F;
}

/// Larger for a larger score; -0 is 0.
__device__ uint32_t order_of(float score) {
  const uint32_t bits = __float_as_uint(score);
  constexpr uint32_t kSign = 0x80000000U;
  if (bits == kSign) return kSign;  // of +0
  return (bits & kSign) != 0 ? ~bits : bits | kSign;
}

struct SelectArgs {
  Matrix<float> scores;
  TokenBatch batch;
  Matrix<int32_t> selected;
  Matrix<int32_t> slots;  // data null: not wanted
  int64_t first_row;
};

/// Writes `count` positions from `start` on and -1 behind them.
__device__ void fill(int32_t* out, int64_t size, int32_t start, int32_t count) {
  for (int64_t i = threadIdx.x; i < size; i += kSelectThreads)
    out[i] = i < count ? start + static_cast<int32_t>(i) : -1;
}

/// The selected positions of row t, which the block has written, as slots of the caches.
__device__ void write_slots(const SelectArgs& args, int64_t t) {
  if (args.slots.data == nullptr) return;
  __syncthreads();
  const int32_t* positions = args.selected.row(t);
  for (int64_t i = threadIdx.x; i < args.slots.cols; i += kSelectThreads) {
    const int32_t position = positions[i];
    args.slots.row(t)[i] =
        position < 0 ? -1 : page_of(args.batch, t, position) * kPageTokens + position % kPageTokens;
  }
}

/// Row `t`, whose scores are `scores`.
__device__ void select_row(const SelectArgs& args, int64_t t, const float* scores) {
  constexpr int kDigits = 256;
  __shared__ int counts[kDigits];
  __shared__ uint32_t found_prefix;
  __shared__ int found_left;
  const int32_t context = args.batch.position[t] + 1;
  const int32_t start = args.batch.first_position;
  const auto topk = static_cast<int32_t>(args.selected.cols);
  int32_t* out = args.selected.row(t);
  if (context - start <= topk) return fill(out, topk, start, context - start);

  const auto thread = static_cast<int>(threadIdx.x);
  bool nan = false;
  for (int32_t s = start + thread; s < context; s += kSelectThreads) nan = nan || isnan(scores[s]);
  if (__syncthreads_or(static_cast<int>(nan)) != 0) {
    if (thread == 0) atomicOr(args.batch.fault + args.batch.sequence[t], kFaultNan);
    return fill(out, topk, start, 0);
  }

  // The order of the k-th best, digit by digit; `left` of those that begin like it are still to be taken.
  uint32_t prefix = 0;
  int left = topk;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = thread; i < kDigits; i += kSelectThreads) counts[i] = 0;
    __syncthreads();
    for (int32_t s = start + thread; s < context; s += kSelectThreads) {
      const uint32_t order = order_of(scores[s]);
      const bool begins_like_it = shift == 24 || order >> (shift + 8) == prefix;
      if (begins_like_it) atomicAdd(counts + (order >> shift) % kDigits, 1);
    }
    __syncthreads();
    if (thread == 0) {
      int digit = kDigits - 1;
      while (counts[digit] < left) left -= counts[digit--];
      found_prefix = prefix << 8 | static_cast<uint32_t>(digit);
      found_left = left;
    }
    __syncthreads();
    prefix = found_prefix;
    left = found_left;
  }

  int taken = 0;
  int equal_before = 0;
  for (int32_t begin = start; begin < context; begin += kSelectThreads) {
    const int32_t s = begin + thread;
    const uint32_t order = s < context ? order_of(scores[s]) : 0;  // 0 is the order of no number
    const Count equal = block_count(order == prefix);
    const bool take = order > prefix || (order == prefix && equal_before + equal.before < left);
    const Count chosen = block_count(take);
    if (take) out[taken + chosen.before] = s;
    taken += chosen.total;
    equal_before += equal.total;
  }
}

__global__ void __launch_bounds__(kSelectThreads) select_kernel(SelectArgs args) {
  wait_for_predecessor();
  allow_successor();
  const int64_t t = args.first_row + blockIdx.x;
  select_row(args, t, args.scores.row(blockIdx.x));
  write_slots(args, t);
}

void launch_scores(const Stream& stream, const ScoreArgs& args, int64_t rows, int64_t columns) {
  const auto pages = static_cast<unsigned>((columns + kPageTokens - 1) / kPageTokens);
  with_key_element(args.keys.dtype, [&](auto element) {
    launch(stream, "the kernel indexer_scores",
           {.blocks = dim3(pages, static_cast<unsigned>(rows)),
            .threads = kScoreThreads,
            .shared_bytes = score_shared_bytes(args.shape)},
           score_kernel<decltype(element)>, args);
  });
}

}  // namespace

int64_t least_index_scratch(const IndexerShape& shape, int64_t /*topk*/, int64_t max_context,
                            int /*threads*/) {
  return tuned_least_scratch(shape, max_context);  // a row's; the others take less
}

void indexer_select(Context& context, const IndexerSelect& op) {
  if (context.stream->tuned() && tuned_takes(op)) return select_tuned(context, op);
  const int64_t columns = op.batch.max_context;
  const int64_t row_bytes = columns * static_cast<int64_t>(sizeof(float));
  const int64_t chunk = std::clamp<int64_t>((context.index_scratch_bytes - kArenaGrain) / row_bytes, 1,
                                            std::min<int64_t>(op.batch.num_tokens, kMostChunkRows));
  const ArenaScope scope(*context.arena);
  const Matrix<float> scores = columns - op.batch.first_position > op.selected.cols
                                   ? context.arena->matrix<float>(chunk, columns)
                                   : Matrix<float>{};
  for (int64_t first = 0; first < op.batch.num_tokens; first += chunk) {
    const int64_t rows = std::min(chunk, op.batch.num_tokens - first);
    if (scores.data != nullptr) {
      launch_scores(*context.stream,
                    {op.q, op.head_weights, op.keys, op.shape, op.batch, scores, first, op.selected.cols},
                    rows, columns);
    }
    launch(*context.stream, "the kernel indexer_select",
           {.blocks = dim3(static_cast<unsigned>(rows)), .threads = kSelectThreads}, select_kernel,
           SelectArgs{scores, op.batch, op.selected, op.slots, first});
  }
}

void indexer_scores(Context& context, const IndexerScores& op) {
  if (context.stream->tuned() && tuned_takes(op)) return scores_tuned(context, op);
  for (int64_t first = 0; first < op.batch.num_tokens; first += kMostChunkRows) {
    const int64_t rows = std::min(kMostChunkRows, op.batch.num_tokens - first);
    const Matrix<float> scores{op.scores.row(first), rows, op.scores.cols, op.scores.stride};
    launch_scores(*context.stream, {op.q, op.head_weights, op.keys, op.shape, op.batch, scores, first, 0},
                  rows, op.scores.cols);
  }
}

}  // namespace fulgur::cuda

namespace fulgur {

bool has_tuned_kernels(const IndexerSelect& op) { return cuda::tuned_takes(op); }

}  // namespace fulgur
