// The indexer's projection [W_k; W_w] x and, in the same kernel, the K side: from hidden state to cache.
//
// Its weights are bytes to be read (2.75 MB for V3.2) and everything else is latency, so: 128 blocks read
// them at once, each its 21.5 KB, all of it before it waits for the predecessor's end; sums meet in shared
// memory of a cluster of eight, then in L2 (indexer_project.cuh). 16 clusters are four row groups times four
// column groups, since a block of r rows, m tokens and k columns reads (r + m) k and sends r m, and 48 x 128
// x 224 is where that sum is small.
//
// Up to eight tokens, weights go to registers, and a token's 16-byte pieces straight from L2 into the mma:
// three warps, one for each 16 rows. Above, weights and tokens go to shared memory by cp.async (rows
// of 448 bytes: eight consecutive lanes of a fragment's load then touch all 32 banks), and twelve warps are
// three row tiles times four groups of 32 tokens.

#include "kernels/cuda/indexer_project.cuh"

namespace fulgur::cuda {
namespace {

using DeepSeekShape = ProjectShape<48, 7>;  // 192 x 7168
using GlmShape = ProjectShape<40, 6>;       // 160 x 6144

constexpr int kFewTokens = 8;
constexpr int kFewThreads = 128;  // three warps of products, one for what keys need beside them
constexpr int kManyThreads = 384;
constexpr int kTokensOfWarp = 32;
constexpr int kTokenTile = 8;  // of an mma

template <typename Shape, bool kKeys>
__global__ void __cluster_dims__(kProjectionCluster, 1, 1) __launch_bounds__(kFewThreads, 4)
    few_tokens_kernel(ProjectArguments args, KeyArguments keys) {
  __shared__ float inbox[inbox_floats(kFewTokens)];
  __shared__ float kw[Shape::kOutputs];
  __shared__ KeyInputs inputs;
  __shared__ uint64_t arrived;  // of the inbox
  const ProjectBlock block(args.num_tokens);
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int row = warp * 16 + fragment_row(lane);
  const int column = leaf_column(block.column_group, block.rank, Shape::kSteps) +
                     piece_offset(lane) / static_cast<int>(sizeof(Bf16));

  if (threadIdx.x == 0) open_inbox(&arrived, block, args.num_tokens, Shape::kRows);
  cluster_arrive();
  allow_successor();
  uint4 weights[Shape::kSteps][2] = {};
  if (warp < Shape::kTiles) {
    const Bf16* from = args.weights + int64_t{block.row_group * Shape::kRows + row} * Shape::kHidden + column;
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
  } else if (kKeys && block.finished >= 0) {
    load_key_inputs(inputs, keys, block.finished, lane);
  }
  cluster_wait();
  if (warp < Shape::kTiles) {
    for_each_sum<Shape>(
        even, odd, warp * 16, 0, args.num_tokens, lane, [&](int token, int of_row, float sum) {
          send(inbox + sum_index(block.rank, 0, of_row, 0), &arrived, static_cast<uint32_t>(token), sum);
        });
  }
  finish_projection<Shape, kFewThreads, kKeys>(inbox, &arrived, kw, inputs, block, args, keys);
}

/// Shared memory of the kernel for many tokens: weights, tokens, the inbox.
template <typename Shape>
constexpr size_t many_tokens_bytes(int num_tokens) {
  const int groups = (num_tokens + kTokensOfWarp - 1) / kTokensOfWarp;
  return size_t{kProjectionPitch} * static_cast<size_t>(Shape::kPaddedRows + groups * kTokensOfWarp) +
         inbox_floats(num_tokens) * sizeof(float);
}

__device__ inline uint4 load_piece(const uint8_t* rows, int row, int step, int lane) {
  constexpr int kStepBytes = kPieceBytes * kPiecesOfStep;
  return *reinterpret_cast<const uint4*>(rows + row * kProjectionPitch + step * kStepBytes +
                                         piece_offset(lane));
}

/// Copies a leaf's columns of some rows, by all threads.
template <typename Shape>
__device__ void copy_rows(uint8_t* to, const Bf16* from, int64_t stride, int rows, int thread) {
  constexpr int kPieces = Shape::kSteps * kPiecesOfStep;  // of a row
  constexpr int kPieceElements = kPieceBytes / sizeof(Bf16);
  for (int i = thread; i < rows * kPieces; i += kManyThreads) {
    const int row = i / kPieces;
    const int piece = i % kPieces;
    copy_piece(to + row * kProjectionPitch + piece * kPieceBytes,
               from + row * stride + piece * kPieceElements);
  }
}

template <typename Shape, bool kKeys>
__global__ void __cluster_dims__(kProjectionCluster, 1, 1) __launch_bounds__(kManyThreads, 2)
    many_tokens_kernel(ProjectArguments args, KeyArguments keys) {
  constexpr int kMostGroups = kProjectionMostTokens / kTokensOfWarp;
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ float kw[Shape::kOutputs];
  __shared__ KeyInputs inputs;
  __shared__ uint64_t arrived;  // of the inbox
  __shared__ uint64_t weights_arrived;
  __shared__ uint64_t tokens_arrived[kMostGroups];
  const ProjectBlock block(args.num_tokens);
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  const int groups = (args.num_tokens + kTokensOfWarp - 1) / kTokensOfWarp;
  const int column = leaf_column(block.column_group, block.rank, Shape::kSteps);
  uint8_t* weights = memory;
  uint8_t* tokens = weights + kProjectionPitch * Shape::kPaddedRows;
  auto* inbox = reinterpret_cast<float*>(tokens + groups * kTokensOfWarp * kProjectionPitch);

  if (thread == 0) open_inbox(&arrived, block, args.num_tokens, kSumPitch);
  cluster_arrive();
  allow_successor();
  if (thread == 0) {
    mbarrier_init(&weights_arrived, kManyThreads);
    for (uint64_t& barrier : tokens_arrived) mbarrier_init(&barrier, kManyThreads);
  }
  __syncthreads();
  copy_rows<Shape>(weights, args.weights + int64_t{block.row_group * Shape::kRows} * Shape::kHidden + column,
                   Shape::kHidden, Shape::kRows, thread);
  arrive_with_copies(&weights_arrived);
  wait_for_predecessor();
  for (int first = 0; first < args.num_tokens; first += kTokensOfWarp) {
    copy_rows<Shape>(tokens + first * kProjectionPitch, args.x + first * args.x_stride + column,
                     args.x_stride, min(kTokensOfWarp, args.num_tokens - first), thread);
    arrive_with_copies(&tokens_arrived[first / kTokensOfWarp]);
  }
  if (kKeys && block.finished >= 0 && warp == kManyThreads / kWarpLanes - 1)
    load_key_inputs(inputs, keys, block.finished, lane);

  constexpr int kTokenTiles = kTokensOfWarp / kTokenTile;
  const int tile = warp % Shape::kTiles;
  const int group = warp / Shape::kTiles;
  const int first_token = group * kTokensOfWarp;
  const int tiles = min(kTokenTiles, (args.num_tokens - first_token + kTokenTile - 1) / kTokenTile);
  float even[kTokenTiles][4] = {};
  float odd[kTokenTiles][4] = {};
  if (group < groups) {
    mbarrier_wait(&weights_arrived, 0);
    mbarrier_wait(&tokens_arrived[group], 0);
    const int row = tile * 16 + fragment_row(lane);
#pragma unroll
    for (int step = 0; step < Shape::kSteps; ++step) {
      const uint4 w0 = load_piece(weights, row, step, lane);
      const uint4 w1 = load_piece(weights, row + 8, step, lane);
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
        if (t >= tiles) break;
        const uint4 x = load_piece(tokens, first_token + t * kTokenTile + fragment_row(lane), step, lane);
        mma_bf16(even[t], w0.x, w1.x, w0.y, w1.y, x.x, x.y);
        mma_bf16(odd[t], w0.z, w1.z, w0.w, w1.w, x.z, x.w);
      }
    }
  }
  // The outbox lies where the tokens were.
  __syncthreads();
  auto* outbox = reinterpret_cast<float*>(tokens);
#pragma unroll
  for (int t = 0; t < kTokenTiles; ++t) {
    if (t >= tiles) break;
    for_each_sum<Shape>(even[t], odd[t], tile * 16, first_token + t * kTokenTile, args.num_tokens, lane,
                        [&](int token, int row, float sum) { outbox[sum_index(0, token, row, 0)] = sum; });
  }
  cluster_wait();
  __syncthreads();
  constexpr int kPieceFloats = kPieceBytes / sizeof(float);
  for (int i = thread; i < args.num_tokens * (kSumPitch / kPieceFloats); i += kManyThreads) {
    const int at = i * kPieceFloats;
    const int token = at / kSumPitch;
    const int owned = token & ((1 << block.log2_owned) - 1);
    send(reinterpret_cast<uint32_t*>(inbox + sum_index(block.rank, owned, at % kSumPitch, block.log2_owned)),
         &arrived, static_cast<uint32_t>(token >> block.log2_owned),
         *reinterpret_cast<const uint4*>(outbox + at));
  }
  finish_projection<Shape, kManyThreads, kKeys>(inbox, &arrived, kw, inputs, block, args, keys);
}

template <typename Shape, bool kKeys>
cudaError_t launch_shape(const ProjectArguments& args, const KeyArguments& keys, cudaStream_t stream,
                         bool pdl) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kProjectionClusters * kProjectionCluster);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = pdl ? 1 : 0;
  if (args.num_tokens <= kFewTokens) {
    config.blockDim = dim3(kFewThreads);
    return cudaLaunchKernelEx(&config, few_tokens_kernel<Shape, kKeys>, args, keys);
  }
  config.blockDim = dim3(kManyThreads);
  config.dynamicSmemBytes = many_tokens_bytes<Shape>(args.num_tokens);
  const cudaError_t status =
      cudaFuncSetAttribute(many_tokens_kernel<Shape, kKeys>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(many_tokens_bytes<Shape>(kProjectionMostTokens)));
  if (status != cudaSuccess) return status;
  return cudaLaunchKernelEx(&config, many_tokens_kernel<Shape, kKeys>, args, keys);
}

template <bool kKeys>
cudaError_t launch_any(const ProjectArguments& args, const KeyArguments& keys, cudaStream_t stream,
                       bool pdl) {
  if (!project_takes(args)) return cudaErrorInvalidValue;
  return args.hidden == DeepSeekShape::kHidden ? launch_shape<DeepSeekShape, kKeys>(args, keys, stream, pdl)
                                               : launch_shape<GlmShape, kKeys>(args, keys, stream, pdl);
}

bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kPieceBytes == 0; }

}  // namespace

bool project_takes(const ProjectArguments& args) {
  constexpr int64_t kPieceElements = kPieceBytes / sizeof(Bf16);
  const bool shape = (args.hidden == DeepSeekShape::kHidden && args.outputs == DeepSeekShape::kOutputs) ||
                     (args.hidden == GlmShape::kHidden && args.outputs == GlmShape::kOutputs);
  return shape && args.num_tokens >= 1 && args.num_tokens <= kProjectionMostTokens && aligned(args.x) &&
         aligned(args.weights) && args.x_stride % kPieceElements == 0;
}

cudaError_t launch_project(const ProjectArguments& args, cudaStream_t stream, bool pdl) {
  return launch_any<false>(args, {}, stream, pdl);
}

cudaError_t launch_project_keys(const ProjectArguments& args, const KeyArguments& keys, cudaStream_t stream,
                                bool pdl) {
  return launch_any<true>(args, keys, stream, pdl);
}

}  // namespace fulgur::cuda
