#pragma once

// What the projection's two kernels (few tokens, up to 128) share: the end, from a block's leaf to kw.
//
// A cluster's blocks hold leaves of the same 48 (GLM-5: 40) outputs. Each block sends its sums of a token to
// the shared memory of the block that owns the token there, which adds them up in order once they are all
// there and puts the result into L2, where block `finished_token` collects the sixteen
// clusters' parts. A part is its own flag: scratch is all ones, which no sum can be (a NaN that an addition
// makes is 0x7fffffff), and the collector leaves it so. That saves the fence, the counter and a trip to L2
// that a last-one-finishes scheme takes, and orders nothing by arrival.

#include "kernels/cuda/indexer_tiles.h"
#include "kernels/cuda/key_finish.cuh"

namespace fulgur::cuda {

constexpr uint32_t kNoPartial = 0xffffffff;

/// A weight shape: rows a cluster holds, and steps of 32 columns a leaf.
template <int kRows_, int kSteps_>
struct ProjectShape {
  static constexpr int kRows = kRows_;
  static constexpr int kSteps = kSteps_;
  static constexpr int kTiles = 3;  // of 16 rows; the last one of GLM-5 is half empty
  static constexpr int kPaddedRows = 16 * kTiles;
  static constexpr int kOutputs = kRows * kProjectionRowGroups;
  static constexpr int kHidden = kSteps * kProjectionStep * kProjectionLeaves;
};

/// Where a block stands.
struct ProjectBlock {
  int rank;  // in its cluster
  int cluster;
  int row_group;
  int column_group;
  int log2_owned;  // tokens a block owns
  int finished;    // the token it finishes, or -1

  __device__ explicit ProjectBlock(int num_tokens)
      : rank(static_cast<int>(blockIdx.x) % kProjectionCluster),
        cluster(static_cast<int>(blockIdx.x) / kProjectionCluster),
        row_group(cluster / kProjectionColumnGroups),
        column_group(cluster % kProjectionColumnGroups),
        log2_owned(log2_owned_tokens(num_tokens)),
        finished(finished_token(cluster, rank, num_tokens)) {}
};

constexpr size_t inbox_floats(int num_tokens) {
  return (size_t{kProjectionCluster} << log2_owned_tokens(num_tokens)) * kSumPitch;
}

/// f(token, row, sum) for what this lane has of an mma tile's sums of a leaf.
template <typename Shape, typename F>
__device__ void for_each_sum(const float (&even)[4], const float (&odd)[4], int first_row, int first_token,
                             int num_tokens, int lane, F&& f) {
  const int row = first_row + fragment_row(lane);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = first_token + fragment_token(lane) + i;
    if (token >= num_tokens) break;
    if (row < Shape::kRows) f(token, row, even[i] + odd[i]);
    if (row + 8 < Shape::kRows) f(token, row + 8, even[2 + i] + odd[2 + i]);
  }
}

/// How many tokens a block owns.
__device__ inline int owned_tokens(int rank, int log2_owned, int num_tokens) {
  return max(0, min(1 << log2_owned, num_tokens - (rank << log2_owned)));
}
/// Prepares the barrier on which what arrives is counted, by one thread.
__device__ inline void open_inbox(uint64_t* arrived, const ProjectBlock& block, int num_tokens,
                                  int floats_of_token) {
  const int owned = owned_tokens(block.rank, block.log2_owned, num_tokens);
  mbarrier_init(arrived, 1);
  fence_mbarrier_init();
  if (owned > 0) {
    mbarrier_expect(arrived,
                    static_cast<uint32_t>(owned * kProjectionCluster * floats_of_token) * sizeof(float));
  }
}

/// Adds up the cluster's sums of the tokens that this block owns, and hands them to their collectors.
template <typename Shape, int kThreads>
__device__ void hand_over(const float* inbox, uint32_t* partials, const ProjectBlock& block, int num_tokens,
                          int thread) {
  const int sums = Shape::kRows * owned_tokens(block.rank, block.log2_owned, num_tokens);
  for (int i = thread; i < sums; i += kThreads) {
    const int owned = i / Shape::kRows;
    const int row = i % Shape::kRows;
    const int token = (block.rank << block.log2_owned) + owned;
    float sum = inbox[sum_index(0, owned, row, block.log2_owned)];
#pragma unroll
    for (int source = 1; source < kProjectionCluster; ++source)
      sum += inbox[sum_index(source, owned, row, block.log2_owned)];
    store_relaxed(partials + partial_index(token, block.column_group, block.row_group * Shape::kRows + row,
                                           Shape::kOutputs),
                  __float_as_uint(sum));
  }
}

/// kw of this block's token, in shared memory; visible after the block's next barrier.
template <typename Shape, int kThreads>
__device__ void collect(float* kw, uint32_t* partials, int token, int thread) {
  constexpr int kRounds = (Shape::kOutputs + kThreads - 1) / kThreads;
  uint32_t parts[kRounds][kProjectionColumnGroups];
  bool complete;
  do {
    complete = true;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int output = thread + round * kThreads;
      if (output >= Shape::kOutputs) break;
#pragma unroll
      for (int group = 0; group < kProjectionColumnGroups; ++group) {
        parts[round][group] = load_relaxed(partials + partial_index(token, group, output, Shape::kOutputs));
        complete &= parts[round][group] != kNoPartial;
      }
    }
  } while (!complete);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    const int output = thread + round * kThreads;
    if (output >= Shape::kOutputs) break;
    float sum = __uint_as_float(parts[round][0]);
#pragma unroll
    for (int group = 1; group < kProjectionColumnGroups; ++group) sum += __uint_as_float(parts[round][group]);
    kw[output] = sum;
#pragma unroll
    for (int group = 0; group < kProjectionColumnGroups; ++group)
      store_relaxed(partials + partial_index(token, group, output, Shape::kOutputs), kNoPartial);
  }
}

/// Everything from the inbox on, by all threads of a block.
template <typename Shape, int kThreads, bool kKeys>
__device__ void finish_projection(const float* inbox, uint64_t* arrived, float* kw, const KeyInputs& inputs,
                                  const ProjectBlock& block, const ProjectArguments& args,
                                  const KeyArguments& keys) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (block.rank << block.log2_owned >= args.num_tokens) return;
  mbarrier_wait_cluster(arrived, 0);
  hand_over<Shape, kThreads>(inbox, args.partials, block, args.num_tokens, thread);
  if (block.finished < 0) return;
  collect<Shape, kThreads>(kw, args.partials, block.finished, thread);
  if constexpr (!kKeys) {
    float* out = args.out + block.finished * args.out_stride;
    for (int i = thread; i < Shape::kOutputs; i += kThreads) out[i] = kw[i];
  } else {
    __syncthreads();
    if (thread < kWarpLanes) {
      finish_key(kw, inputs, keys, thread);
    } else {
      float* out = keys.head_weights + block.finished * keys.head_weight_stride;
      for (int i = thread - kWarpLanes; i < Shape::kOutputs - kIndexDim; i += kThreads - kWarpLanes)
        out[i] = kw[kIndexDim + i] * keys.weight_scale;
    }
  }
}

}  // namespace fulgur::cuda
