#pragma once

// What the projection's two kernels (few tokens, up to 128) share: the end, from sums of blocks to kw, keys
// and head weights.
//
// Sums go through L2: a block puts its parts there, and the block that finishes a token collects that token's
// from all blocks. A part is its own flag: scratch is all ones, which no sum can be (a NaN that an addition
// makes is 0x7fffffff), and the collector leaves it so. That saves the fence, the counter and a trip to L2
// that a last-one-finishes scheme takes, and orders nothing by arrival.

#include "kernels/cuda/indexer_tiles.h"
#include "kernels/cuda/key_finish.cuh"

namespace fulgur::cuda {

constexpr uint32_t kNoPartial = 0xffffffff;

/// A weight shape: rows of a row group, and steps of 32 columns a leaf.
template <int kRows_, int kSteps_>
struct ProjectShape {
  static constexpr int kRows = kRows_;
  static constexpr int kSteps = kSteps_;
  static constexpr int kTiles = 3;  // of 16 rows; the last one of GLM-5 is half empty
  static constexpr int kPaddedRows = 16 * kTiles;
  static constexpr int kOutputs = kRows * kProjectionRowGroups;
  static constexpr int kHidden = kSteps * kProjectionStep * kProjectionLeaves;
  static_assert(kRows % 4 == 0);
};
using DeepSeekProjection = ProjectShape<48, 7>;  // 192 x 7168
using GlmProjection = ProjectShape<40, 6>;       // 160 x 6144

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

struct KeyInputs {
  KeyNorm norm;
  KeyPlace place;

  /// By one warp. What other loads wait for comes first.
  __device__ void load(const KeyArguments& args, int token, int lane) {
    const int position = args.rows.position[token];
    const int sequence = args.rows.sequence[token];
    norm.load<kWarpLanes>(args, lane);
    place.load<kWarpLanes>(args, position, sequence, lane);
  }
};

/// A token's kw, in shared memory and visible, to its place: f32, or key and head weights. By all threads.
template <typename Shape, int kThreads, bool kKeys>
__device__ void finish_token(const float* kw, const KeyInputs& inputs, int token,
                             const ProjectArguments& args, const KeyArguments& keys) {
  const auto thread = static_cast<int>(threadIdx.x);
  if constexpr (!kKeys) {
    float* out = args.out + token * args.out_stride;
    for (int i = thread; i < Shape::kOutputs; i += kThreads) out[i] = kw[i];
  } else {
    if (thread < kWarpLanes) {
      finish_key<kWarpLanes>(kw, inputs.norm, inputs.place, keys, thread);
    } else {
      float* out = keys.head_weights + token * keys.head_weight_stride;
      for (int i = thread - kWarpLanes; i < Shape::kOutputs - kIndexDim; i += kThreads - kWarpLanes)
        out[i] = kw[kIndexDim + i] * keys.weight_scale;
    }
  }
}

// The two launches, by the number of tokens; shapes as in project_takes().
cudaError_t launch_few_projection(const ProjectArguments& args, const KeyArguments* keys, cudaStream_t stream,
                                  bool pdl);
cudaError_t launch_batch_projection(const ProjectArguments& args, const KeyArguments* keys,
                                    const LatentArguments& latents, cudaStream_t stream, bool pdl);
/// How many of the latter's largest blocks the device holds at once; throws `device`. The same of the
/// former's clusters.
int batch_projection_blocks_at_once();
int few_projection_clusters_at_once();

}  // namespace fulgur::cuda
