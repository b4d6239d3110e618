// The indexer's queries: W_iq q_latent with FP8 weights in blocks of 128 x 128, rope, Hadamard, rounding, and
// sigma_q into the head weights, in one kernel.
//
// 12.6 MB of weights for V3.2 make the time. A cluster of four blocks makes a head: each has 32 of its rows,
// 49 KB, which cp.async brings to shared memory before the predecessor has ended; two blocks and the next
// kernel's two fit on a multiprocessor. e4m3 is exact in f16, and so is the other operand (QueryOperand), so
// mma.m16n8k16 in f16 sums exact products in f32: more bits than Hopper's FP8 instructions keep, at a cost
// (one conversion for two weights) that hides behind the bytes. The sums of a group of 128 columns take both
// scales. A lane reads its token's pieces straight from L2 and rounds them in registers: the four lanes of a
// token hold a group. Then the four parts of the columns meet in shared memory, a head's rows in the block
// that owns the token, and a warp finishes the head there. Above eight tokens a block makes sixteen at a
// time.
//
// A row of codes has a pitch of 64 bytes more than a multiple of 128: eight lanes of a fragment's load then
// touch all 32 banks.

#include "kernels/cuda/indexer_finish.cuh"
#include "kernels/cuda/query_latents.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpLanes;
constexpr int kRowTiles = kQueryRows / 16;
constexpr int kTokenTile = 8;  // of an mma
static_assert(kRowTiles * kQueryParts == kWarps);

/// A weight's columns and the tokens of a pass, and whether a block rounds them once for all its warps, in
/// shared memory: less arithmetic, and registers for four blocks on a multiprocessor, but more of its memory
/// and a barrier more on the way.
template <int kRank, int kTiles_, bool kShared_>
struct QueryShape {
  static constexpr bool kShared = kShared_;
  static constexpr int kTiles = kTiles_;
  static constexpr int kTokens = kTiles * kTokenTile;
  static constexpr int kOwned = kTokens / kQueryCluster;
  static constexpr int kColumns = kRank;
  static constexpr int kGroups = kRank / kQueryGroup;
  static constexpr int kGroupsOfPart = kGroups / kQueryParts;
  static constexpr int kRowPitch = query_pitch(kRank);
  static constexpr int kBlocks = kShared ? 4 : kTiles == 1 ? 3 : 2;  // on a multiprocessor
  static constexpr int kLatentPitch = 2 * kRank + 16;                // bytes
  static_assert(kGroups % kQueryParts == 0 && (!kShared || kTiles == 1));

  /// `tokens`: of a pass, at most kTokens.
  static constexpr size_t shared_bytes(int tokens) {
    const size_t token = (kQueryParts - 1) * kQueryRows * sizeof(float) +
                         (kShared ? kLatentPitch + kGroups * sizeof(float) : 0);
    return size_t{kQueryRows} * kRowPitch + static_cast<size_t>(tokens) * token +
           size_t{2} * kOwned * kIndexDim * sizeof(float);
  }
};

/// A head's 128 components after the product, by one warp: to q and into the head weight. cos, sin [32].
__device__ inline void finish_head(float (&v)[kParts], const QueryArguments& args, int64_t token, int head,
                                   const float* cos, const float* sin, float head_weight, int lane) {
  rotate(v, args.rounding.rope_interleaved, cos, sin, lane);
  if (args.rounding.hadamard) hadamard(v, lane);
  const int64_t at = token * args.q_stride + int64_t{head} * kIndexDim + lane;
  if (!args.rounding.e4m3) {
#pragma unroll
    for (int i = 0; i < kParts; ++i) static_cast<Bf16*>(args.q)[at + i * kWarpLanes] = to_bf16(v[i]);
    return;
  }
  uint8_t codes[kParts];
  const float sigma = quantize(v, args.rounding.power_of_two_scales, codes);
#pragma unroll
  for (int i = 0; i < kParts; ++i) static_cast<uint8_t*>(args.q)[at + i * kWarpLanes] = codes[i];
  if (lane == 0) args.head_weights[token * args.head_weight_stride + head] = head_weight * sigma;
}

/// The tokens of one pass.
struct Pass {
  int first;
  int tokens;
  int owned;  // by this block: tokens rank, rank + 4, ...

  template <typename Shape>
  __device__ static Pass at(int pass, int num_tokens, int rank) {
    const int first = pass * Shape::kTokens;
    const int tokens = max(0, min(Shape::kTokens, num_tokens - first));
    return {first, tokens, (tokens + kQueryCluster - 1 - rank) / kQueryCluster};
  }
};

/// Where a block has its tokens where they are shared.
struct SharedLatents {
  uint8_t* halves;  // [tokens][columns], f16
  float* scales;    // [tokens][groups]
};

/// Rounds the tokens for the block, by all threads.
template <typename Shape>
__device__ void share_latents(const SharedLatents& to, const QueryArguments& args, int tokens, int thread) {
  constexpr int kLanes = 16;  // of a group
  constexpr int kPieces = Shape::kGroups * kLanes;
  static_assert(kPieces % kWarpLanes == 0);
  for (int i = thread; i < tokens * kPieces; i += kThreads) {  // by whole warps
    const int token = i / kPieces;
    const int piece = i % kPieces;
    const Bf16* row = args.q_latent + token * args.q_latent_stride;
    uint4 values[1] = {reinterpret_cast<const uint4*>(row)[piece]};
    const float scale = round_latents<kLanes>(values, args);
    *reinterpret_cast<uint4*>(to.halves + token * Shape::kLatentPitch + piece * kPieceBytes) = values[0];
    if (piece % kLanes == 0) to.scales[token * Shape::kGroups + piece / kLanes] = scale;
  }
}

/// sums += the product of one row tile, a group of columns, and all tokens of a pass, by a warp, as an mma
/// has it.
template <int kTiles>
__device__ void multiply_group(float (&sums)[kTiles][4], const uint8_t* weights, int pitch,
                               float weight_scale, const LatentQuarter (&latents)[kTiles],
                               const float (&scales)[kTiles], int lane) {
  float d[2][kTiles][4] = {};  // of the first and the last eight codes of pieces
#pragma unroll
  for (int step = 0; step < kQueryGroup / kQueryStep; ++step) {
    const uint4 w0 = *reinterpret_cast<const uint4*>(weights + step * kQueryStep);
    const uint4 w1 = *reinterpret_cast<const uint4*>(weights + 8 * pitch + step * kQueryStep);
    const uint32_t low[4] = {w0.x, w0.y, w0.z, w0.w};
    const uint32_t high[4] = {w1.x, w1.y, w1.z, w1.w};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // four codes of a row, two pairs of columns
        const uint32_t a0 = e4m3x2_to_f16x2(static_cast<uint16_t>(low[2 * half + i]));
        const uint32_t a1 = e4m3x2_to_f16x2(static_cast<uint16_t>(high[2 * half + i]));
        const uint32_t a2 = e4m3x2_to_f16x2(static_cast<uint16_t>(low[2 * half + i] >> 16));
        const uint32_t a3 = e4m3x2_to_f16x2(static_cast<uint16_t>(high[2 * half + i] >> 16));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          const uint4& x = latents[t].pieces[2 * step + half];
          mma_f16(d[half][t], a0, a1, a2, a3, i == 0 ? x.x : x.z, i == 0 ? x.y : x.w);
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Token j's scale is with lanes 4 j to 4 j + 3.
      const float scale =
          weight_scale * __shfl_sync(kAllLanes, scales[t], kPiecesOfStep * (fragment_token(lane) + i));
      sums[t][i] = fmaf(d[0][t][i] + d[1][t][i], scale, sums[t][i]);
      sums[t][2 + i] = fmaf(d[0][t][2 + i] + d[1][t][2 + i], scale, sums[t][2 + i]);
    }
  }
}

/// The sums of a part of the columns; `meanwhile()` while the first loads are on their way.
template <typename Shape, typename F>
__device__ void multiply_part(float (&sums)[Shape::kTiles][4], const uint8_t* weights,
                              const float* weight_scales, const QueryArguments& args, const Pass& pass,
                              uint64_t* weights_arrived, const SharedLatents& shared, int part, int lane,
                              F&& meanwhile) {
  constexpr int kTiles = Shape::kTiles;
  const int first_group = part * Shape::kGroupsOfPart;
  const auto load = [&](LatentQuarter(&latents)[kTiles], int g) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int token =
          min(t * kTokenTile + fragment_row(lane), pass.tokens - 1);  // columns without one come in vain
      const Bf16* row = args.q_latent + (pass.first + token) * args.q_latent_stride;
      latents[t].load(row + (first_group + g) * kQueryGroup, lane);
    }
  };
  const auto multiply = [&](LatentQuarter(&latents)[kTiles], int g) {
    float scales[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) scales[t] = round_latents<kPiecesOfStep>(latents[t].pieces, args);
    multiply_group<kTiles>(sums, weights + (first_group + g) * kQueryGroup, Shape::kRowPitch,
                           weight_scales[first_group + g], latents, scales, lane);
  };
  if constexpr (Shape::kShared) {
    share_latents<Shape>(shared, args, pass.tokens, static_cast<int>(threadIdx.x));
    meanwhile();
    __syncthreads();
    mbarrier_wait(weights_arrived, 0);
    const int token = min(fragment_row(lane), pass.tokens - 1);
    const auto* row = reinterpret_cast<const Bf16*>(shared.halves + token * Shape::kLatentPitch);
#pragma unroll 1
    for (int g = first_group; g < first_group + Shape::kGroupsOfPart; ++g) {
      LatentQuarter latents[1];
      latents[0].load(row + g * kQueryGroup, lane);
      const float scales[1] = {shared.scales[token * Shape::kGroups + g]};
      multiply_group<1>(sums, weights + g * kQueryGroup, Shape::kRowPitch, weight_scales[g], latents, scales,
                        lane);
    }
    return;
  }
  // Loads of one group beside the product of another, where registers allow it.
  LatentQuarter even[kTiles];
  load(even, 0);
  if constexpr (kTiles > 1) {
    meanwhile();
    mbarrier_wait(weights_arrived, 0);
#pragma unroll 1
    for (int g = 0; g < Shape::kGroupsOfPart; ++g) {
      if (g > 0) load(even, g);
      multiply(even, g);
    }
  } else {
    LatentQuarter odd[kTiles];
    load(odd, 1);
    meanwhile();
    mbarrier_wait(weights_arrived, 0);
#pragma unroll 1
    for (int g = 0; g < Shape::kGroupsOfPart; g += 2) {
      multiply(even, g);
      if (g + 2 < Shape::kGroupsOfPart) load(even, g + 2);
      if (g + 1 < Shape::kGroupsOfPart) multiply(odd, g + 1);
      if (g + 3 < Shape::kGroupsOfPart) load(odd, g + 3);
    }
  }
}

template <typename Shape>
__global__ void __cluster_dims__(kQueryCluster, 1, 1) __launch_bounds__(kThreads, Shape::kBlocks)
    query_kernel(QueryArguments args) {
  constexpr bool kOnePass = Shape::kTiles == 1;
  extern __shared__ __align__(128) uint8_t memory[];
  __shared__ float weight_scales[Shape::kGroups];
  __shared__ float angles[Shape::kOwned][2 * kRopePairs];
  __shared__ uint64_t weights_arrived;
  __shared__ uint64_t heads_arrived[2];  // of even and of odd passes
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  const int head = static_cast<int>(blockIdx.x) / kQueryCluster;
  const int rank = static_cast<int>(blockIdx.x) % kQueryCluster;
  const int tile = warp % kRowTiles;
  const int part = warp / kRowTiles;
  const int stored_tokens = min(Shape::kTokens, args.num_tokens);
  const auto pass_at = [&](int pass) { return Pass::at<Shape>(pass, args.num_tokens, rank); };

  uint8_t* weights = memory;
  auto* heads = reinterpret_cast<float*>(weights + kQueryRows * Shape::kRowPitch);  // [2][owned][128]
  float* parts = heads + 2 * Shape::kOwned * kIndexDim;  // [parts - 1][tokens][rows]
  auto* halves = reinterpret_cast<uint8_t*>(parts + (kQueryParts - 1) * stored_tokens * kQueryRows);
  const SharedLatents shared{halves, reinterpret_cast<float*>(halves + stored_tokens * Shape::kLatentPitch)};
  const auto expect_heads = [&](int pass) {
    const auto bytes = static_cast<uint32_t>(pass_at(pass).owned) * kIndexDim * sizeof(float);
    if (bytes > 0) mbarrier_expect(&heads_arrived[pass % 2], bytes);
  };

  if (thread == 0) {
    mbarrier_init(&weights_arrived, kThreads);
    for (uint64_t& barrier : heads_arrived) mbarrier_init(&barrier, 1);
    fence_mbarrier_init();
    expect_heads(0);
    if (!kOnePass) expect_heads(1);
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

  const int passes = kOnePass ? 1 : (args.num_tokens + Shape::kTokens - 1) / Shape::kTokens;
  for (int p = 0; p < passes; ++p) {
    const Pass pass = pass_at(p);
    float head_weight = 0;
    int position = 0;
    const int own = pass.first + warp * kQueryCluster + rank;  // the token that this warp finishes
    if (warp < pass.owned) {
      position = args.rows.position[own];
      if (args.rounding.e4m3) head_weight = args.head_weights[own * args.head_weight_stride + head];
    }
    float sums[Shape::kTiles][4] = {};
    const int row = tile * 16 + fragment_row(lane);
    multiply_part<Shape>(sums, weights + row * Shape::kRowPitch + piece_offset(lane), weight_scales, args,
                         pass, &weights_arrived, shared, part, lane, [&] {
                           if (warp >= pass.owned) return;
                           __syncwarp();  // the last pass's readers
                           const int64_t at = position * args.rows.rope_stride + lane;
                           copy_word(&angles[warp][lane], args.rows.cos + at);
                           copy_word(&angles[warp][kRopePairs + lane], args.rows.sin + at);
                         });
    if (p > 0) __syncthreads();  // the last pass's readers of parts
    const auto part_at = [&](int of_part, int token) {
      return parts + ((of_part - 1) * stored_tokens + token) * kQueryRows + row;
    };
    const auto for_each_token = [&](auto&& f) {
#pragma unroll
      for (int t = 0; t < Shape::kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int token = t * kTokenTile + fragment_token(lane) + i;
          if (token < pass.tokens) f(token, sums[t][i], sums[t][2 + i]);
        }
      }
    };
    if (part > 0) {
      for_each_token([&](int token, float low, float high) {
        part_at(part, token)[0] = low;
        part_at(part, token)[8] = high;
      });
    }
    __syncthreads();
    float* inbox = heads + p % 2 * Shape::kOwned * kIndexDim;
    if (p == 0) cluster_wait();
    if (part == 0) {
      for_each_token([&](int token, float low, float high) {
#pragma unroll
        for (int other = 1; other < kQueryParts; ++other) {
          low += part_at(other, token)[0];
          high += part_at(other, token)[8];
        }
        const auto owner = static_cast<uint32_t>(token % kQueryCluster);
        float* to = inbox + token / kQueryCluster * kIndexDim + rank * kQueryRows + row;
        send(to, &heads_arrived[p % 2], owner, low);
        send(to + 8, &heads_arrived[p % 2], owner, high);
      });
    }
    if (warp < pass.owned) {
      mbarrier_wait_cluster(&heads_arrived[p % 2], static_cast<uint32_t>(p / 2 % 2));
      // The others send to this buffer again only when all blocks have sent the pass in between, which this
      // one does after the barrier below.
      if (!kOnePass && thread == 0) expect_heads(p + 2);
      wait_for_copies();
      __syncwarp();
      float v[kParts];
#pragma unroll
      for (int i = 0; i < kParts; ++i) v[i] = inbox[warp * kIndexDim + lane + kWarpLanes * i];
      finish_head(v, args, own, head, angles[warp], angles[warp] + kRopePairs, head_weight, lane);
    }
  }
}

template <typename Shape>
cudaError_t launch_shape(const QueryArguments& args, cudaStream_t stream, bool pdl) {
  const cudaError_t status =
      cudaFuncSetAttribute(query_kernel<Shape>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(Shape::shared_bytes(Shape::kTokens)));
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(args.num_heads * kQueryCluster));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes =
      Shape::shared_bytes(args.num_tokens < Shape::kTokens ? args.num_tokens : Shape::kTokens);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = pdl ? 1 : 0;
  return cudaLaunchKernelEx(&config, query_kernel<Shape>, args);
}

/// `kSharing`: up to how many tokens that is the faster way (docs/performance.md).
template <int kRank, int kSharing>
cudaError_t launch_rank(const QueryArguments& args, cudaStream_t stream, bool pdl) {
  if (args.num_tokens <= kSharing) return launch_shape<QueryShape<kRank, 1, true>>(args, stream, pdl);
  if (args.num_tokens <= kTokenTile) return launch_shape<QueryShape<kRank, 1, false>>(args, stream, pdl);
  return launch_shape<QueryShape<kRank, 2, false>>(args, stream, pdl);
}

constexpr int kDeepSeekRank = 1536;
constexpr int kGlmRank = 2048;

}  // namespace

bool query_takes(const QueryArguments& args) {
  constexpr int64_t kAlignment = 16;
  const auto aligned = [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0;
  };
  return (args.q_rank == kDeepSeekRank || args.q_rank == kGlmRank) && args.num_tokens >= 1 &&
         args.num_heads >= 1 && aligned(args.weights) && aligned(args.q_latent) &&
         args.q_latent_stride % 8 == 0;
}

cudaError_t launch_query(const QueryArguments& args, cudaStream_t stream, bool pdl) {
  if (!query_takes(args)) return cudaErrorInvalidValue;
  return args.q_rank == kDeepSeekRank ? launch_rank<kDeepSeekRank, 4>(args, stream, pdl)
                                      : launch_rank<kGlmRank, 8>(args, stream, pdl);
}

}  // namespace fulgur::cuda
