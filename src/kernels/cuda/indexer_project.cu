// The indexer's projection [W_k; W_w] x of few tokens and, in the same kernel, the K side: from hidden state
// to cache.
//
// Its weights are bytes to be read (2.75 MB for V3.2) and everything else is latency, so: 128 blocks read
// them at once, each its 21.5 KB, to registers and all of it before it waits for the predecessor's end. A
// token's 16-byte pieces come straight from L2 into the mma: three warps, one for each 16 rows. A cluster's
// blocks hold leaves of the same 48 (GLM-5: 40) outputs; each sends its sums of a token to the shared memory
// of the block that owns the token there, which adds them up once they are all there and puts them into L2,
// where a block of the first cluster collects the parts of all (indexer_project.cuh).

#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/indexer_project.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 128;  // three warps of products, one for what keys need beside them
constexpr int kSums = kProjectionCluster * kSumPitch;

/// Adds up the cluster's sums of the token that this block owns, and hands them to the collector.
template <typename Shape>
__device__ void hand_over(const float* inbox, uint32_t* partials, int column_group, int first_output,
                          int token, int thread) {
  if (thread >= Shape::kRows) return;
  const auto leaf = [&](int source) { return inbox[source * kSumPitch + thread]; };
  const auto quad = [&](int first) {
    return (leaf(first) + leaf(first + 1)) + (leaf(first + 2) + leaf(first + 3));
  };
  store_relaxed(partials + partial_index(token, column_group, kProjectionColumnGroups, first_output + thread,
                                         Shape::kOutputs),
                __float_as_uint(quad(0) + quad(4)));
}

/// kw of this block's token, in shared memory; visible after the block's next barrier.
template <typename Shape>
__device__ void collect(float* kw, uint32_t* partials, int token, int thread) {
  constexpr int kRounds = (Shape::kOutputs + kThreads - 1) / kThreads;
  uint32_t parts[kRounds][kProjectionColumnGroups];
  const auto part_at = [&](int round, int part) {
    return partials +
           partial_index(token, part, kProjectionColumnGroups, thread + round * kThreads, Shape::kOutputs);
  };
  bool complete;
  do {
    complete = true;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      if (thread + round * kThreads >= Shape::kOutputs) break;
#pragma unroll
      for (int part = 0; part < kProjectionColumnGroups; ++part) {
        parts[round][part] = load_relaxed(part_at(round, part));
        complete &= parts[round][part] != kNoPartial;
      }
    }
  } while (!complete);
#pragma unroll
  for (int round = 0; round < kRounds; ++round) {
    if (thread + round * kThreads >= Shape::kOutputs) break;
    float sum = __uint_as_float(parts[round][0]);
#pragma unroll
    for (int part = 1; part < kProjectionColumnGroups; ++part) sum += __uint_as_float(parts[round][part]);
    kw[thread + round * kThreads] = sum;
#pragma unroll
    for (int part = 0; part < kProjectionColumnGroups; ++part)
      store_relaxed(part_at(round, part), kNoPartial);
  }
}

template <typename Shape, bool kKeys>
__global__ void __cluster_dims__(kProjectionCluster, 1, 1) __launch_bounds__(kThreads, 4)
    few_tokens_kernel(ProjectArguments args, KeyArguments keys) {
  __shared__ float inbox[kSums];
  __shared__ float kw[Shape::kOutputs];
  __shared__ KeyInputs inputs;
  __shared__ uint64_t arrived;  // of the inbox
  const auto thread = static_cast<int>(threadIdx.x);
  const int rank = static_cast<int>(blockIdx.x) % kProjectionCluster;
  const int cluster = static_cast<int>(blockIdx.x) / kProjectionCluster;
  const int row_group = cluster / kProjectionColumnGroups;
  const int column_group = cluster % kProjectionColumnGroups;
  const int finished = finished_token(cluster, rank, args.num_tokens);
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  const int row = warp * 16 + fragment_row(lane);
  const int column = leaf_column(column_group * kProjectionCluster + rank, Shape::kSteps) +
                     piece_offset(lane) / static_cast<int>(sizeof(Bf16));

  if (thread == 0) {
    mbarrier_init(&arrived, 1);
    fence_mbarrier_init();
    if (rank < args.num_tokens)
      mbarrier_expect(&arrived, static_cast<uint32_t>(kProjectionCluster * Shape::kRows) * sizeof(float));
  }
  cluster_arrive();
  allow_successor();
  uint4 weights[Shape::kSteps][2] = {};
  if (warp < Shape::kTiles) {
    const Bf16* from = args.weights + int64_t{row_group * Shape::kRows + row} * Shape::kHidden + column;
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      if (row < Shape::kRows) weights[step][0] = load_weights(from + step * kProjectionStep);
      if (row + 8 < Shape::kRows)
        weights[step][1] = load_weights(from + 8 * Shape::kHidden + step * kProjectionStep);
    }
  }
  wait_for_predecessor();

  float even[4] = {};
  float odd[4] = {};
  if (warp < Shape::kTiles) {
    uint4 tokens[Shape::kSteps] = {};
    if (fragment_row(lane) < args.num_tokens) {
      const Bf16* from = args.x + fragment_row(lane) * args.x_stride + column;
#pragma unroll
      for (int step = 0; step < Shape::kSteps; ++step)
        tokens[step] = *reinterpret_cast<const uint4*>(from + step * kProjectionStep);
    }
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      const uint4(&w)[2] = weights[step];
      mma_bf16(even, w[0].x, w[1].x, w[0].y, w[1].y, tokens[step].x, tokens[step].y);
      mma_bf16(odd, w[0].z, w[1].z, w[0].w, w[1].w, tokens[step].z, tokens[step].w);
    }
  } else if (kKeys && finished >= 0) {
    inputs.load(keys, finished, lane);
  }
  cluster_wait();
  if (warp < Shape::kTiles) {
    for_each_sum<Shape>(
        even, odd, warp * 16, 0, args.num_tokens, lane, [&](int token, int of_row, float sum) {
          send(inbox + rank * kSumPitch + of_row, &arrived, static_cast<uint32_t>(token), sum);
        });
  }
  if (rank >= args.num_tokens) return;
  mbarrier_wait_cluster(&arrived, 0);
  hand_over<Shape>(inbox, args.partials, column_group, row_group * Shape::kRows, rank, thread);
  if (finished < 0) return;
  collect<Shape>(kw, args.partials, finished, thread);
  __syncthreads();
  finish_token<Shape, kThreads, kKeys>(kw, inputs, finished, args, keys);
}

constexpr Grid kGrid{.blocks = dim3(kProjectionBlocks), .threads = kThreads};

template <typename Shape>
cudaError_t launch_shape(const ProjectArguments& args, const KeyArguments* keys, cudaStream_t stream,
                         bool pdl) {
  Grid grid = kGrid;
  grid.pdl = pdl;
  return keys == nullptr ? launch_kernel(few_tokens_kernel<Shape, false>, grid, stream, args, KeyArguments{})
                         : launch_kernel(few_tokens_kernel<Shape, true>, grid, stream, args, *keys);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kPieceBytes == 0; }

}  // namespace

cudaError_t launch_few_projection(const ProjectArguments& args, const KeyArguments* keys, cudaStream_t stream,
                                  bool pdl) {
  return args.hidden == DeepSeekProjection::kHidden
             ? launch_shape<DeepSeekProjection>(args, keys, stream, pdl)
             : launch_shape<GlmProjection>(args, keys, stream, pdl);
}

int few_projection_clusters_at_once() {
  return clusters_at_once(few_tokens_kernel<DeepSeekProjection, true>, kProjectionCluster, kThreads, 0);
}

bool project_takes(const ProjectArguments& args) {
  constexpr int64_t kPieceElements = kPieceBytes / sizeof(Bf16);
  const bool shape =
      (args.hidden == DeepSeekProjection::kHidden && args.outputs == DeepSeekProjection::kOutputs) ||
      (args.hidden == GlmProjection::kHidden && args.outputs == GlmProjection::kOutputs);
  return shape && args.num_tokens >= 1 && args.num_tokens <= kProjectionMostTokens && aligned(args.x) &&
         aligned(args.weights) && args.x_stride % kPieceElements == 0;
}

bool projection_fits_device() {
  return few_projection_clusters_at_once() >= kProjectionClusters &&
         batch_projection_blocks_at_once() >= kProjectionBlocks;
}

cudaError_t launch_project(const ProjectArguments& args, cudaStream_t stream, bool pdl) {
  if (!project_takes(args)) return cudaErrorInvalidValue;
  return args.num_tokens <= kFewProjectionTokens ? launch_few_projection(args, nullptr, stream, pdl)
                                                 : launch_batch_projection(args, nullptr, {}, stream, pdl);
}

cudaError_t launch_project_keys(const ProjectArguments& args, const KeyArguments& keys,
                                const LatentArguments& latents, cudaStream_t stream, bool pdl) {
  if (!project_takes(args)) return cudaErrorInvalidValue;
  return args.num_tokens <= kFewProjectionTokens ? launch_few_projection(args, &keys, stream, pdl)
                                                 : launch_batch_projection(args, &keys, latents, stream, pdl);
}

}  // namespace fulgur::cuda
