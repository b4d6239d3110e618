#pragma once

// The tuned kernels of the indexer's selection (docs/performance.md, "Scores and selection"): what they read
// and write, as plain pointers, the shapes they take, and the scratch they want. Every pointer is device
// memory.
//
// In all of them score(t, s) is the same arithmetic, bit for bit: products of 32 e4m3 components as wgmma
// sums them (about 14 bits of the largest summand), four of them one after the other; a head's max(0, .)
// times its weight, in f32, by eight chains (index_scores.cuh); times the key's scale. It depends on the
// query row and the key alone.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/index_tile.h"

namespace fulgur::cuda {

/// Where the selections of a launch's rows go: positions ascending, -1 after the last; slots = page * 64 +
/// position % 64 of the same.
struct SelectionOutput {
  int32_t topk;
  int32_t* positions;  // [rows, topk]
  int32_t* slots;      // [rows, topk]; null: not wanted
  uint32_t* fault;     // [sequences]: kFaultNan where a score of the row is NaN, whose output is -1
};

/// The rows of a launch: as in TokenBatch.
struct RowMap {
  const int32_t* position;  // [rows]: row r has position[r] + 1 candidates
  const int32_t* sequence;  // [rows]: its row of `pages`
  const int32_t* pages;     // [sequences, page_stride]
  int32_t page_stride;
  int32_t num_rows;
  int32_t max_context;  // a launch bound: position[r] < max_context
};

/// The exact top-k of given scores. Rows of scores start at multiples of 16 bytes.
struct TopkArguments {
  const float* scores;  // [rows, score_stride], finite, infinite or NaN where s <= position
  int64_t score_stride;
  RowMap rows;
  SelectionOutput out;
};

/// The scores of query rows against paged keys of 128 components, all e4m3.
struct ScoreArguments {
  const void* q;  // [rows, heads, 128] codes, rows `q_stride_bytes` apart, 16-byte aligned
  int64_t q_stride_bytes;
  const float* head_weights;  // [rows, heads], rows `weight_stride` apart
  int64_t weight_stride;
  const uint8_t* keys;  // pages: [64][128] codes and then [64] f32 scales
  RowMap rows;
  int32_t unscored;  // rows with no more candidates need no scores
};

struct LaunchOptions {
  cudaStream_t stream = nullptr;
  bool pdl = false;         // start while the predecessor ends
  int cluster = 0;          // blocks a row; 0: chosen
  int threads = 0;          // of a block of launch_topk, 512 or 1024; 0: chosen
  bool early_keys = false;  // see indexer_decode
};

/// Top-k over given scores; any topk >= 1, rows that topk_takes, their scores aligned to 16 bytes.
/// The device has room for a cluster that holds rows of so many candidates: with clusters of 8, which Hopper
/// GPUs run, 350,208, of 12 524,288. Throws `device`. With options.early_keys, positions and the page table
/// are read before the predecessor has ended: they must have been complete before it started.
bool topk_takes(int max_context);
cudaError_t launch_topk(const TopkArguments& arguments, const LaunchOptions& options);

/// Decode: scores and selection in one kernel, the scores in shared memory. Rows of one sequence are
/// consecutive, about `tokens_per_sequence` (1 to 4) of them; this kernel reads the keys for each. 64 or 32
/// heads, topk >= 1. With options.early_keys, keys of whole pages before the one of a sequence's first row of
/// this launch are read before the predecessor has ended: they, the positions and the page table must have
/// been complete before the predecessor started. `dump`, if not null, [rows, dump_stride] takes the scores.
struct DecodeArguments {
  ScoreArguments scores;
  int num_heads;
  int tokens_per_sequence;
  SelectionOutput out;
  float* dump;
  int64_t dump_stride;
};

// Rows [first, first + count) of a launch.

inline RowMap rows_of(RowMap rows, int64_t first, int64_t count) {
  rows.position += first;
  rows.sequence += first;
  rows.num_rows = static_cast<int32_t>(count);
  return rows;
}
inline SelectionOutput rows_of(SelectionOutput out, int64_t first) {
  out.positions += first * out.topk;
  if (out.slots != nullptr) out.slots += first * out.topk;
  return out;
}
inline DecodeArguments rows_of(DecodeArguments arguments, int64_t first, int64_t count) {
  ScoreArguments& scores = arguments.scores;
  scores.q = static_cast<const uint8_t*>(scores.q) + first * scores.q_stride_bytes;
  scores.head_weights += first * scores.weight_stride;
  scores.rows = rows_of(scores.rows, first, count);
  arguments.out = rows_of(arguments.out, first);
  return arguments;
}
inline TopkArguments rows_of(const TopkArguments& arguments, int64_t first, int64_t count) {
  return {arguments.scores + first * arguments.score_stride, arguments.score_stride,
          rows_of(arguments.rows, first, count), rows_of(arguments.out, first)};
}

bool decode_takes(const DecodeArguments& arguments, int cluster);
/// Rather than launch_row_scores and launch_topk (cluster_choice.h), with the cluster that it chooses.
bool decode_is_fastest(const DecodeArguments& arguments);
/// So many clusters of launch_decode run at once; throws `device`, and so does launch_topk's choice.
int decode_clusters_at_once(const DecodeArguments& arguments, int cluster);
cudaError_t launch_decode(const DecodeArguments& arguments, const LaunchOptions& options);

/// Scores alone into [rows, score_stride] (columns past a row's position keep what they held, as do rows of a
/// sequence that need none): the pages of all rows, of whatever lengths, are dealt to all multiprocessors.
/// Takes what launch_decode takes, of any context; where tokens_per_sequence is more than one, up to four
/// rows of a sequence share each key that is read.
cudaError_t launch_row_scores(const DecodeArguments& arguments, float* scores, int64_t score_stride,
                              const LaunchOptions& options);

/// The same for many rows of each sequence (each that needs no scores keeps what it held): a block keeps keys
/// in registers and streams the queries. A sequence's rows are consecutive, at consecutive positions.
/// `scratch`, aligned to 128 bytes, of prompt_scratch_bytes().
size_t prompt_scratch_bytes(int num_heads, int rows);
cudaError_t launch_prompt_scores(const ScoreArguments& arguments, int num_heads, void* scratch, float* scores,
                                 int64_t score_stride, const LaunchOptions& options);

}  // namespace fulgur::cuda
