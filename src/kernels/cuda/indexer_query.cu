// The indexer's queries of few tokens: W_iq q_latent with FP8 weights in blocks of 128 x 128, rope, Hadamard,
// rounding, and sigma_q into the head weights, in one kernel.
//
// 12.6 MB of weights for V3.2 make the time. A cluster of four blocks makes a head: each has 32 of its rows,
// 49 KB, which cp.async brings to shared memory before the predecessor has ended; two blocks and the next
// kernel's two fit on a multiprocessor. e4m3 is exact in f16, and so is the other operand
// (query_latents.cuh), so mma.m16n8k16 in f16 sums exact products in f32: more bits than Hopper's FP8
// instructions keep, at a cost (one conversion for two weights) that hides behind the bytes. The sums of a
// group of 128 columns take both scales. A lane reads its token's pieces straight from L2 and rounds them in
// registers: the four lanes of a token hold a group. Then the four parts of the columns meet in shared
// memory, a head's rows in the block that owns the token, and a warp finishes the head there.
//
// A row of codes has a pitch of 64 bytes more than a multiple of 128: eight lanes of a fragment's load then
// touch all 32 banks.

#include "kernels/cuda/indexer_queries.h"
#include "kernels/cuda/query_finish.cuh"
#include "kernels/cuda/query_latents.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kRowTiles = kQueryRows / 16;
constexpr int kOwned = kFewQueryTokens / kQueryCluster;  // tokens a block finishes
static_assert(kRowTiles * kQueryParts == kWarps);

/// A weight's columns, and whether a block rounds the tokens once for all its warps, in shared memory: less
/// arithmetic, and registers for four blocks on a multiprocessor, but more of its memory and a barrier more
/// on the way.
template <int kRank, bool kShared_>
struct QueryShape {
  static constexpr bool kShared = kShared_;
  static constexpr int kColumns = kRank;
  static constexpr int kGroups = kRank / kQueryGroup;
  static constexpr int kGroupsOfPart = kGroups / kQueryParts;
  static constexpr int kRowPitch = query_pitch(kRank);
  static constexpr int kBlocks = kShared ? 4 : 3;      // on a multiprocessor
  static constexpr int kLatentPitch = 2 * kRank + 16;  // bytes
  static_assert(kGroups % kQueryParts == 0);

  static constexpr size_t shared_bytes(int tokens) {
    const size_t token = (kQueryParts - 1) * kQueryRows * sizeof(float) +
                         (kShared ? kLatentPitch + kGroups * sizeof(float) : 0);
    return size_t{kQueryRows} * kRowPitch + static_cast<size_t>(tokens) * token +
           size_t{kOwned} * kIndexDim * sizeof(float);
  }
};

/// Where a block has its tokens where they are shared.
struct SharedLatents {
  uint8_t* halves;  // [tokens][columns], f16
  float* scales;    // [tokens][groups]
};

/// Rounds the tokens for the block, by all threads.
template <typename Shape>
__device__ void share_latents(const SharedLatents& to, const QueryArguments& args, int thread) {
  constexpr int kPieces = Shape::kGroups * kGroupLanes;
  static_assert(kPieces % kWarpLanes == 0);
  for (int i = thread; i < args.num_tokens * kPieces; i += kThreads) {  // by whole warps
    const int token = i / kPieces;
    const int piece = i % kPieces;
    const Bf16* row = args.q_latent + token * args.q_latent_stride;
    uint4 values[1] = {reinterpret_cast<const uint4*>(row)[piece]};
    const float scale = round_latents<kGroupLanes>(values);
    *reinterpret_cast<uint4*>(to.halves + token * Shape::kLatentPitch + piece * kPieceBytes) = values[0];
    if (piece % kGroupLanes == 0) to.scales[token * Shape::kGroups + piece / kGroupLanes] = scale;
  }
}

/// sums += the product of one row tile, a group of columns, and the tokens, by a warp, as an mma has it.
__device__ void multiply_group(float (&sums)[4], const uint8_t* weights, int pitch, float weight_scale,
                               const LatentQuarter& latents, float latent_scale, int lane) {
  float d[4] = {};
#pragma unroll
  for (int step = 0; step < kQueryGroup / kQueryStep; ++step) {
    const uint4 w0 = *reinterpret_cast<const uint4*>(weights + step * kQueryStep);
    const uint4 w1 = *reinterpret_cast<const uint4*>(weights + 8 * pitch + step * kQueryStep);
    const uint4& x0 = latents.pieces[2 * step];
    const uint4& x1 = latents.pieces[2 * step + 1];
    const auto multiply = [&](uint32_t row, uint32_t eight_below, uint32_t b0, uint32_t b1) {
      uint32_t a[4];
      weight_fragment(a[0], a[2], row);
      weight_fragment(a[1], a[3], eight_below);
      mma_f16(d, a[0], a[1], a[2], a[3], b0, b1);
    };
    multiply(w0.x, w1.x, x0.x, x0.y);  // four codes of a row, two pairs of columns
    multiply(w0.y, w1.y, x0.z, x0.w);
    multiply(w0.z, w1.z, x1.x, x1.y);
    multiply(w0.w, w1.w, x1.z, x1.w);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    // Token j's scale is with lanes 4 j to 4 j + 3.
    const float scale =
        weight_scale * __shfl_sync(kAllLanes, latent_scale, kPiecesOfStep * (fragment_token(lane) + i));
    sums[i] = fmaf(d[i], scale, sums[i]);
    sums[2 + i] = fmaf(d[2 + i], scale, sums[2 + i]);
  }
}

/// The sums of a part of the columns; `meanwhile()` while the first loads are on their way.
template <typename Shape, typename F>
__device__ void multiply_part(float (&sums)[4], const uint8_t* weights, const float* weight_scales,
                              const QueryArguments& args, uint64_t* weights_arrived,
                              const SharedLatents& shared, int part, int lane, F&& meanwhile) {
  const int first_group = part * Shape::kGroupsOfPart;
  const int token = min(fragment_row(lane), args.num_tokens - 1);  // columns without one come in vain
  if constexpr (Shape::kShared) {
    share_latents<Shape>(shared, args, static_cast<int>(threadIdx.x));
    meanwhile();
    __syncthreads();
    mbarrier_wait(weights_arrived, 0);
    const auto* row = reinterpret_cast<const Bf16*>(shared.halves + token * Shape::kLatentPitch);
#pragma unroll 1
    for (int g = first_group; g < first_group + Shape::kGroupsOfPart; ++g) {
      LatentQuarter latents;
      latents.load(row + g * kQueryGroup, lane);
      multiply_group(sums, weights + g * kQueryGroup, Shape::kRowPitch, weight_scales[g], latents,
                     shared.scales[token * Shape::kGroups + g], lane);
    }
    return;
  }
  // Loads of one group beside the product of another.
  const Bf16* row = args.q_latent + token * args.q_latent_stride + first_group * kQueryGroup;
  const auto multiply = [&](LatentQuarter& latents, int g) {
    const float scale = round_latents<kPiecesOfStep>(latents.pieces);
    multiply_group(sums, weights + (first_group + g) * kQueryGroup, Shape::kRowPitch,
                   weight_scales[first_group + g], latents, scale, lane);
  };
  LatentQuarter even;
  LatentQuarter odd;
  even.load(row, lane);
  odd.load(row + kQueryGroup, lane);
  meanwhile();
  mbarrier_wait(weights_arrived, 0);
#pragma unroll 1
  for (int g = 0; g < Shape::kGroupsOfPart; g += 2) {
    multiply(even, g);
    if (g + 2 < Shape::kGroupsOfPart) even.load(row + (g + 2) * kQueryGroup, lane);
    if (g + 1 < Shape::kGroupsOfPart) multiply(odd, g + 1);
    if (g + 3 < Shape::kGroupsOfPart) odd.load(row + (g + 3) * kQueryGroup, lane);
  }
}

template <typename Shape>
__global__ void __cluster_dims__(kQueryCluster, 1, 1) __launch_bounds__(kThreads, Shape::kBlocks)
    query_kernel(QueryArguments args) {
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ float weight_scales[Shape::kGroups];
  __shared__ HeadInputs inputs[kOwned];
  __shared__ uint64_t weights_arrived;
  __shared__ uint64_t heads_arrived;
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  const int head = static_cast<int>(blockIdx.x) / kQueryCluster;
  const int rank = static_cast<int>(blockIdx.x) % kQueryCluster;
  const int tile = warp % kRowTiles;
  const int part = warp / kRowTiles;
  const int owned = (args.num_tokens + kQueryCluster - 1 - rank) / kQueryCluster;  // rank, rank + 4, ...

  uint8_t* weights = memory;
  auto* heads = reinterpret_cast<float*>(weights + kQueryRows * Shape::kRowPitch);  // [owned][128]
  float* parts = heads + kOwned * kIndexDim;  // [parts - 1][tokens][rows]
  auto* halves = reinterpret_cast<uint8_t*>(parts + (kQueryParts - 1) * args.num_tokens * kQueryRows);
  const SharedLatents shared{halves,
                             reinterpret_cast<float*>(halves + args.num_tokens * Shape::kLatentPitch)};

  if (thread == 0) {
    mbarrier_init(&weights_arrived, kThreads);
    mbarrier_init(&heads_arrived, 1);
    fence_mbarrier_init();
    if (owned > 0) mbarrier_expect(&heads_arrived, static_cast<uint32_t>(owned) * kIndexDim * sizeof(float));
  }
  cluster_arrive();
  allow_successor();
  __syncthreads();
  const uint8_t* from = args.weights + (int64_t{head} * kIndexDim + rank * kQueryRows) * Shape::kColumns;
#pragma unroll 1
  for (int row = warp; row < kQueryRows; row += kWarps) {
#pragma unroll
    for (int at = lane * kPieceBytes; at < Shape::kColumns; at += kWarpLanes * kPieceBytes)
      copy_piece(weights + row * Shape::kRowPitch + at, from + row * Shape::kColumns + at);
  }
  arrive_with_copies(&weights_arrived);
  if (thread < Shape::kGroups) weight_scales[thread] = args.scales[head * Shape::kGroups + thread];
  __syncthreads();
  wait_for_predecessor();

  float head_weight = 0;
  int position = 0;
  const int own = warp * kQueryCluster + rank;  // the token that this warp finishes
  if (warp < owned) {
    position = args.rows.position[own];
    if (args.rounding.e4m3) head_weight = args.head_weights[own * args.head_weight_stride + head];
  }
  float sums[4] = {};
  const int row = tile * 16 + fragment_row(lane);
  multiply_part<Shape>(sums, weights + row * Shape::kRowPitch + piece_offset(lane), weight_scales, args,
                       &weights_arrived, shared, part, lane, [&] {
                         if (warp < owned) inputs[warp].load_angles(args.rows, position, lane);
                       });
  const auto part_at = [&](int of_part, int token) {
    return parts + ((of_part - 1) * args.num_tokens + token) * kQueryRows + row;
  };
  if (part > 0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = fragment_token(lane) + i;
      if (token >= args.num_tokens) break;
      part_at(part, token)[0] = sums[i];
      part_at(part, token)[8] = sums[2 + i];
    }
  }
  __syncthreads();
  cluster_wait();
  if (part == 0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = fragment_token(lane) + i;
      if (token >= args.num_tokens) break;
#pragma unroll
      for (int other = 1; other < kQueryParts; ++other) {
        sums[i] += part_at(other, token)[0];
        sums[2 + i] += part_at(other, token)[8];
      }
      const auto owner = static_cast<uint32_t>(token % kQueryCluster);
      float* to = heads + token / kQueryCluster * kIndexDim + rank * kQueryRows + row;
      send(to, &heads_arrived, owner, sums[i]);
      send(to + 8, &heads_arrived, owner, sums[2 + i]);
    }
  }
  if (warp >= owned) return;
  mbarrier_wait_cluster(&heads_arrived, 0);
  wait_for_copies();
  __syncwarp();
  float v[kParts];
#pragma unroll
  for (int i = 0; i < kParts; ++i) v[i] = heads[warp * kIndexDim + lane + kWarpLanes * i];
  finish_head(v, args, own, head, inputs[warp], head_weight, lane);
}

template <typename Shape>
cudaError_t launch_shape(const QueryArguments& args, cudaStream_t stream, bool pdl) {
  return launch_kernel(query_kernel<Shape>,
                       {.blocks = dim3(static_cast<unsigned>(args.num_heads * kQueryCluster)),
                        .threads = kThreads,
                        .shared_bytes = Shape::shared_bytes(args.num_tokens),
                        .pdl = pdl},
                       stream, args);
}

/// `kSharing`: up to how many tokens that is the faster way (docs/performance.md).
template <int kRank, int kSharing>
cudaError_t launch_rank(const QueryArguments& args, cudaStream_t stream, bool pdl) {
  return args.num_tokens <= kSharing ? launch_shape<QueryShape<kRank, true>>(args, stream, pdl)
                                     : launch_shape<QueryShape<kRank, false>>(args, stream, pdl);
}

}  // namespace

cudaError_t launch_few_queries(const QueryArguments& args, cudaStream_t stream, bool pdl) {
  return args.q_rank == kDeepSeekRank ? launch_rank<kDeepSeekRank, 4>(args, stream, pdl)
                                      : launch_rank<kGlmRank, 8>(args, stream, pdl);
}

}  // namespace fulgur::cuda
