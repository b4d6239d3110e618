// The indexer's projection [W_k; W_w] x of 9 to 128 tokens, the K side with it, and q_latent laid out for the
// queries' kernel.
//
// A block of r rows, m tokens and k columns reads (r + m) k and hands on r m sums. 128 blocks have 48 rows
// (GLM-5: 40) and 32 tokens each, and as many leaves of 224 columns as there are tiles of 32 tokens, so that
// each hands on 6 KB. cp.async brings the weights to shared memory before the predecessor has ended, then the
// tokens (rows of 448 bytes: eight consecutive lanes of a fragment's load touch all 32 banks). Twelve warps
// are three row tiles times four parts of leaves and tokens. A block's leaves meet in shared memory, all
// blocks' sums in L2 (indexer_project.cuh), where block t collects token t's.

#include "kernels/cuda/indexer_project.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/query_latents.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 384;
constexpr int kTokenTile = 8;  // of an mma
constexpr int kTileRowsSums = kProjectionTile * kSumPitch;

template <typename Shape>
constexpr size_t shared_bytes(int leaves) {
  return static_cast<size_t>(leaves * (Shape::kPaddedRows + kProjectionTile)) * kProjectionPitch;
}

__device__ inline uint4 load_piece(const uint8_t* rows, int row, int step, int lane) {
  constexpr int kStepBytes = kPieceBytes * kPiecesOfStep;
  return *reinterpret_cast<const uint4*>(rows + row * kProjectionPitch + step * kStepBytes +
                                         piece_offset(lane));
}

/// Copies kLeaves leaves of some rows, [leaf][padded][pitch], by all threads.
template <typename Shape, int kLeaves>
__device__ void copy_rows(uint8_t* to, const Bf16* from, int64_t stride, int rows, int padded, int thread) {
  constexpr int kPiecesOfLeaf = Shape::kSteps * kPiecesOfStep;
  constexpr int kPieces = kLeaves * kPiecesOfLeaf;  // of a row, consecutive
  constexpr int kPieceElements = kPieceBytes / sizeof(Bf16);
  for (int i = thread; i < rows * kPieces; i += kThreads) {
    const int row = i / kPieces;
    const int piece = i % kPieces;
    copy_piece(
        to + (piece / kPiecesOfLeaf * padded + row) * kProjectionPitch + piece % kPiecesOfLeaf * kPieceBytes,
        from + row * stride + piece * kPieceElements);
  }
}

/// The quads of four outputs from the parts of one token that this thread collects, and the parts cleared.
template <int kParts>
__device__ float4 collect_quad(uint32_t* partials, int part_stride) {
  uint4 parts[kParts];
  bool complete;
  do {
    complete = true;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
      uint4& p = parts[i];
      p = load_relaxed4(partials + i * part_stride);
      complete &= p.x != kNoPartial && p.y != kNoPartial && p.z != kNoPartial && p.w != kNoPartial;
    }
  } while (!complete);
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    store_relaxed4(partials + i * part_stride, make_uint4(kNoPartial, kNoPartial, kNoPartial, kNoPartial));
  const auto quad = [&](auto&& word) {
    const auto part = [&](int i) { return __uint_as_float(word(parts[i])); };
    if constexpr (kParts == 1) return part(0);
    if constexpr (kParts == 2) return part(0) + part(1);
    if constexpr (kParts == 4) return (part(0) + part(1)) + (part(2) + part(3));
  };
  return make_float4(quad([](const uint4& p) { return p.x; }), quad([](const uint4& p) { return p.y; }),
                     quad([](const uint4& p) { return p.z; }), quad([](const uint4& p) { return p.w; }));
}

template <typename Shape, int kLeaves, bool kKeys>
__global__ void __launch_bounds__(kThreads, 1)
    batch_kernel(ProjectArguments args, KeyArguments keys, LatentArguments latents) {
  constexpr int kTokenParts = 4 / kLeaves;  // of a tile: what warps of a leaf share
  constexpr int kTokensOfWarp = kProjectionTile / kTokenParts;
  constexpr int kTokenTiles = kTokensOfWarp / kTokenTile;
  constexpr int kBlockParts = kProjectionLeaves / kLeaves;
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ __align__(16) float leaves[kLeaves * kTileRowsSums];  // [leaf][token][row]
  __shared__ __align__(16) float quads[kProjectionQuads][Shape::kOutputs];
  __shared__ float kw[Shape::kOutputs];
  __shared__ KeyInputs inputs;
  const auto block = static_cast<int>(blockIdx.x);
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  // Blocks that share weights lie side by side.
  const int first_token = block % kLeaves * kProjectionTile;
  const int part = block / kLeaves % kBlockParts;
  const int row_group = block / kLeaves / kBlockParts;
  const int tokens = min(kProjectionTile, args.num_tokens - first_token);
  const int column = leaf_column(part * kLeaves, Shape::kSteps);
  uint8_t* weights = memory;
  uint8_t* x = weights + kLeaves * Shape::kPaddedRows * kProjectionPitch;

  allow_successor();
  copy_rows<Shape, kLeaves>(weights,
                            args.weights + int64_t{row_group * Shape::kRows} * Shape::kHidden + column,
                            Shape::kHidden, Shape::kRows, Shape::kPaddedRows, thread);
  wait_for_predecessor();
  copy_rows<Shape, kLeaves>(x, args.x + first_token * args.x_stride + column, args.x_stride, tokens,
                            kProjectionTile, thread);
  const bool finishes = block < args.num_tokens;
  if (kKeys && finishes && warp == kThreads / kWarpLanes - 1) inputs.load(keys, block, lane);
  if (kKeys && latents.operand != nullptr) {
    const int padded =
        (latents.num_tokens + latents.tile_tokens - 1) / latents.tile_tokens * latents.tile_tokens;
    const int pieces = latents.q_rank / kQueryGroup * kGroupLanes;
    if (block < padded && thread < pieces)  // by whole warps
      lay_out_piece(latents, block, thread / kGroupLanes, thread % kGroupLanes);
  }
  wait_for_copies();
  __syncthreads();

  const int tile = warp % Shape::kTiles;
  const int leaf = warp / Shape::kTiles % kLeaves;
  const int of_tile = warp / Shape::kTiles / kLeaves * kTokensOfWarp;
  const uint8_t* leaf_weights = weights + leaf * Shape::kPaddedRows * kProjectionPitch;
  const uint8_t* leaf_x = x + leaf * kProjectionTile * kProjectionPitch;
  float even[kTokenTiles][4] = {};
  float odd[kTokenTiles][4] = {};
  const int row = tile * 16 + fragment_row(lane);
#pragma unroll
  for (int step = 0; step < Shape::kSteps; ++step) {
    const uint4 w0 = load_piece(leaf_weights, row, step, lane);
    const uint4 w1 = load_piece(leaf_weights, row + 8, step, lane);
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
      const uint4 v = load_piece(leaf_x, of_tile + t * kTokenTile + fragment_row(lane), step, lane);
      mma_bf16(even[t], w0.x, w1.x, w0.y, w1.y, v.x, v.y);
      mma_bf16(odd[t], w0.z, w1.z, w0.w, w1.w, v.z, v.w);
    }
  }
#pragma unroll
  for (int t = 0; t < kTokenTiles; ++t) {
    for_each_sum<Shape>(even[t], odd[t], tile * 16, of_tile + t * kTokenTile, tokens, lane,
                        [&](int token, int of_row, float sum) {
                          leaves[leaf * kTileRowsSums + token * kSumPitch + of_row] = sum;
                        });
  }
  __syncthreads();
  constexpr int kQuarters = Shape::kRows / 4;  // of four rows
  for (int i = thread; i < tokens * kQuarters; i += kThreads) {
    const int token = i / kQuarters;
    const int first_row = i % kQuarters * 4;
    const auto sum = [&](int r) {
      const float* at = leaves + token * kSumPitch + first_row + r;
      if constexpr (kLeaves == 1) return __float_as_uint(at[0]);
      if constexpr (kLeaves == 2) return __float_as_uint(at[0] + at[kTileRowsSums]);
      if constexpr (kLeaves == 4) {
        return __float_as_uint((at[0] + at[kTileRowsSums]) + (at[2 * kTileRowsSums] + at[3 * kTileRowsSums]));
      }
    };
    store_relaxed4(args.partials + partial_index(first_token + token, part, kBlockParts,
                                                 row_group * Shape::kRows + first_row, Shape::kOutputs),
                   make_uint4(sum(0), sum(1), sum(2), sum(3)));
  }
  if (!finishes) return;
  constexpr int kPartsOfQuad = kBlockParts / kProjectionQuads;
  constexpr int kVectors = Shape::kOutputs / 4;
  static_assert(kVectors * kProjectionQuads <= kThreads);
  if (thread < kVectors * kProjectionQuads) {
    const int quad = thread / kVectors;
    const int output = thread % kVectors * 4;
    uint32_t* from =
        args.partials + partial_index(block, quad * kPartsOfQuad, kBlockParts, output, Shape::kOutputs);
    *reinterpret_cast<float4*>(&quads[quad][output]) = collect_quad<kPartsOfQuad>(from, Shape::kOutputs);
  }
  __syncthreads();
  if (thread < Shape::kOutputs) {
    float sum = quads[0][thread] + quads[1][thread];
#pragma unroll
    for (int quad = 2; quad < kProjectionQuads; quad += 2)
      sum += quads[quad][thread] + quads[quad + 1][thread];
    kw[thread] = sum;
  }
  __syncthreads();
  finish_token<Shape, kThreads, kKeys>(kw, inputs, block, args, keys);
}

template <typename Shape, int kLeaves>
cudaError_t launch_leaves(const ProjectArguments& args, const KeyArguments* keys,
                          const LatentArguments& latents, cudaStream_t stream, bool pdl) {
  const Grid grid{.blocks = dim3(kProjectionBlocks),
                  .threads = kThreads,
                  .shared_bytes = shared_bytes<Shape>(kLeaves),
                  .pdl = pdl};
  return keys == nullptr
             ? launch_kernel(batch_kernel<Shape, kLeaves, false>, grid, stream, args, KeyArguments{}, latents)
             : launch_kernel(batch_kernel<Shape, kLeaves, true>, grid, stream, args, *keys, latents);
}

template <typename Shape>
cudaError_t launch_shape(const ProjectArguments& args, const KeyArguments* keys,
                         const LatentArguments& latents, cudaStream_t stream, bool pdl) {
  switch (projection_leaves(args.num_tokens)) {
    case 1:
      return launch_leaves<Shape, 1>(args, keys, latents, stream, pdl);
    case 2:
      return launch_leaves<Shape, 2>(args, keys, latents, stream, pdl);
    default:
      return launch_leaves<Shape, 4>(args, keys, latents, stream, pdl);
  }
}

}  // namespace

cudaError_t launch_batch_projection(const ProjectArguments& args, const KeyArguments* keys,
                                    const LatentArguments& latents, cudaStream_t stream, bool pdl) {
  return args.hidden == DeepSeekProjection::kHidden
             ? launch_shape<DeepSeekProjection>(args, keys, latents, stream, pdl)
             : launch_shape<GlmProjection>(args, keys, latents, stream, pdl);
}

int batch_projection_blocks_at_once() {
  constexpr size_t kBytes = shared_bytes<DeepSeekProjection>(4);
  const auto kernel = batch_kernel<DeepSeekProjection, 4, true>;
  int blocks = 0;  // of a multiprocessor
  check(allow_launch(reinterpret_cast<const void*>(kernel), kBytes, /*cluster=*/1), "cudaFuncSetAttribute");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, kBytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return num_multiprocessors() * blocks;
}

}  // namespace fulgur::cuda
