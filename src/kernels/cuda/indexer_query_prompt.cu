// The indexer's queries of a prompt: e4m3 against e4m3 on the tensor cores, rope, Hadamard, rounding, and
// sigma_q into the head weights.
//
// One kernel rounds q_latent to e4m3, a scale for each 128 columns of a token, and lays it out as the matrix
// unit reads it. Then a cluster of two blocks for each two multiprocessors takes tiles of 256 tokens and two
// heads, one after the other. One thread of a block copies, group of 128 columns by group, its 128 tokens (16
// KB) to itself and one head's 128 rows (16 KB) to both, into a ring of four; two warpgroups have 64 tokens
// each as A and a head's rows as B, four products of 32 columns. Tensor cores keep about 14 bits of such
// sums, so each group's are brought into f32 with both scales, in the order of the groups. A head's
// components of a token lie in four threads, in the order of prompt_component(): rope needs no neighbour, and
// each thread writes runs of eight codes.
//
// Cost of 8192 tokens, V3.2: 206 GFLOP (143 us at the peak of e4m3); 0.8 GB from L2 to shared memory.

#include <algorithm>

#include "kernels/cuda/indexer_queries.h"
#include "kernels/cuda/query_latents.cuh"
#include "kernels/cuda/query_prompt_finish.cuh"
#include "kernels/cuda/tensor_copy.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kGroupThreads = 128;  // of a warpgroup
constexpr int kConsumerGroups = 2;
constexpr int kConsumerWarps = kConsumerGroups * kGroupThreads / kWarpLanes;
constexpr int kThreads = (kConsumerGroups + 1) * kGroupThreads;
constexpr int kCluster = 2;       // blocks
constexpr int kHeads = kCluster;  // of a tile: each block brings one
constexpr int kBlockTokens = kConsumerGroups * kPromptTileTokens;
constexpr int kTileTokens = kCluster * kBlockTokens;
constexpr int kStages = 4;
constexpr int kLatentBytes = kPromptTileTokens * kQueryGroup;  // of a warpgroup and group
constexpr int kHeadBytes = kIndexDim * kQueryGroup;
constexpr int kStageBytes = kConsumerGroups * kLatentBytes + kHeads * kHeadBytes;
constexpr int kScaleBytes = kPromptTileTokens * static_cast<int>(sizeof(float));
constexpr int kAlignment = 1024;  // of a swizzled block
constexpr int kSharedBytes = kStages * (kStageBytes + kConsumerGroups * kScaleBytes) + kAlignment;
constexpr int kSums = kIndexDim / 2;  // of a thread: two tokens, 32 components each

struct PromptArguments {
  CUtensorMap weights;  // rows in the order of prompt_component(), boxes of a head and 128 columns
  QueryArguments query;
  const uint8_t* latents;  // [tiles of 64][groups][64][128], swizzled
  const float* scales;     // [tiles of 64][groups][64]
  int tiles;
};

/// A block's ring.
struct PromptMemory {
  uint8_t* stages;
  float* scales;
  uint64_t* full;
  uint64_t* empty;
  __device__ uint8_t* latents(int stage, int group) const {
    return stages + stage * kStageBytes + group * kLatentBytes;
  }
  __device__ uint8_t* head(int stage, int head) const {
    return latents(stage, kConsumerGroups) + head * kHeadBytes;
  }
  __device__ float* latent_scales(int stage, int group) const {
    return scales + (stage * kConsumerGroups + group) * kPromptTileTokens;
  }
};

struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

/// f(first head, first tile of 64 tokens) for each of a block's tiles.
template <typename F>
__device__ void for_each_tile_of_block(const PromptArguments& args, F&& f) {
  const int head_pairs = args.query.num_heads / kHeads;
  const auto rank = static_cast<int>(blockIdx.x) % kCluster;
  const auto clusters = static_cast<int>(gridDim.x) / kCluster;
  for (int tile = static_cast<int>(blockIdx.x) / kCluster; tile < args.tiles; tile += clusters)
    f(tile % head_pairs * kHeads, (tile / head_pairs * kCluster + rank) * kConsumerGroups);
}

/// One thread brings a block's tokens, and its head for the cluster.
template <int kGroups>
__device__ void bring(const PromptArguments& args, const PromptMemory& memory) {
  const auto rank = static_cast<int>(blockIdx.x) % kCluster;
  constexpr uint16_t kAllBlocks = (1 << kCluster) - 1;
  RingPlace place;
  for_each_tile_of_block(args, [&](int first_head, int first_tile) {
#pragma unroll 1
    for (int group = 0; group < kGroups; ++group) {
      uint64_t* full = memory.full + place.stage;
      mbarrier_wait_cluster(memory.empty + place.stage, place.parity ^ 1);
      mbarrier_expect(full, kStageBytes + kConsumerGroups * kScaleBytes);
      tensor_copy_outer(memory.head(place.stage, rank), args.weights, group * kQueryGroup,
                        (first_head + rank) * kRuns, full, kAllBlocks);
#pragma unroll
      for (int i = 0; i < kConsumerGroups; ++i) {
        const int64_t at = int64_t{first_tile + i} * kGroups + group;
        bulk_copy(memory.latents(place.stage, i), args.latents + at * kLatentBytes, kLatentBytes, full);
        bulk_copy(memory.latent_scales(place.stage, i), args.scales + at * kPromptTileTokens, kScaleBytes,
                  full);
      }
      place.advance();
    }
  });
}

/// Adds up the sums of a tile's two heads and 64 tokens, by a warpgroup: [head][four for every eight columns
/// of D].
template <int kGroups>
__device__ void multiply(float (&sums)[kHeads][kSums], const PromptMemory& memory, RingPlace& place,
                         float weight_scales, int warpgroup, int row, int lane) {
#pragma unroll 1
  for (int group = 0; group < kGroups; ++group) {
    mbarrier_wait(memory.full + place.stage, place.parity);
    const float* scales = memory.latent_scales(place.stage, warpgroup) + row;
    const float latent_scales[2] = {scales[0], scales[8]};
    const uint64_t a = swizzled_operand(shared_address(memory.latents(place.stage, warpgroup)));
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      const uint64_t b = swizzled_operand(shared_address(memory.head(place.stage, head)));
      float d[kSums];
      pin(d);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        constexpr int kStep = 32 >> 4;  // bytes, as operands count them
        wgmma_e4m3(d, a + step * kStep, b + step * kStep, step > 0 ? 1 : 0);
      }
      wgmma_commit();
      const float weight_scale = __shfl_sync(kAllLanes, weight_scales, head * kGroups + group);
      const float both[2] = {latent_scales[0] * weight_scale, latent_scales[1] * weight_scale};
      wgmma_wait<0>();
      pin(d);
      __syncwarp();
      if (head == kHeads - 1 && lane < kCluster) mbarrier_arrive_at(memory.empty + place.stage, lane);
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[head][i] = fmaf(d[i], both[i % 4 / 2], sums[head][i]);
    }
    place.advance();
  }
}

/// The tiles of a block, by a warpgroup: 64 tokens.
template <int kGroups>
__device__ void run(const PromptArguments& args, const PromptMemory& memory, int warpgroup) {
  const QueryArguments& query = args.query;
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int quad = lane % kPiecesOfStep;
  const int row = static_cast<int>(threadIdx.x) % kGroupThreads / kWarpLanes * 16 + fragment_row(lane);
  RingPlace place;
  for_each_tile_of_block(args, [&](int first_head, int first_tile) {
    const int first_token = (first_tile + warpgroup) * kPromptTileTokens + row;
    // Lane g has the scale of group g % kGroups of head g / kGroups.
    static_assert(kHeads * kGroups <= kWarpLanes);
    const float weight_scales = lane < kHeads * kGroups ? query.scales[first_head * kGroups + lane] : 0;
    float sums[kHeads][kSums] = {};
    multiply<kGroups>(sums, memory, place, weight_scales, warpgroup, row, lane);
    Angles angles[2];
    float head_weights[2][kHeads] = {};
#pragma unroll
    for (int below = 0; below < 2; ++below) {
      const int token = min(first_token + 8 * below, query.num_tokens - 1);
      angles[below].load(query.rows, query.rows.position[token], query.rounding.rope_interleaved, quad);
      if (query.rounding.e4m3 && quad == 0) {
#pragma unroll
        for (int head = 0; head < kHeads; ++head)
          head_weights[below][head] =
              query.head_weights[token * query.head_weight_stride + first_head + head];
      }
    }
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int below = 0; below < 2; ++below) {
        Components x;
#pragma unroll
        for (int i = 0; i < kIndexDim / 4; ++i) {
          // D's column 8 (i / 2) + 2 quad + i % 2 is component 32 (i / 8) + 8 quad + i % 8.
          x[i / kRun][i % kRun] = sums[head][i / 2 * 4 + below * 2 + i % 2];
        }
        finish(x, query, first_token + 8 * below, first_head + head, angles[below], head_weights[below][head],
               quad);
      }
    }
  });
}

template <int kRank>
__global__ void __cluster_dims__(kCluster, 1, 1) __launch_bounds__(kThreads, 1)
    prompt_query_kernel(const __grid_constant__ PromptArguments args) {
  constexpr int kGroups = kRank / kQueryGroup;
  constexpr uint32_t kProducerRegisters = 24;
  constexpr uint32_t kConsumerRegisters = 240;
  extern __shared__ uint8_t unaligned[];
  __shared__ uint64_t full[kStages];
  __shared__ uint64_t empty[kStages];
  PromptMemory memory{};
  memory.stages = unaligned + (kAlignment - shared_address(unaligned) % kAlignment) % kAlignment;
  memory.scales = reinterpret_cast<float*>(memory.stages + kStages * kStageBytes);
  memory.full = full;
  memory.empty = empty;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kCluster * kConsumerWarps);
    }
    fence_mbarrier_init();
  }
  __syncthreads();
  cluster_arrive();
  cluster_wait();
  wait_for_predecessor();
  allow_successor();
  const int warpgroup = static_cast<int>(threadIdx.x) / kGroupThreads;
  if (warpgroup == kConsumerGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kProducerRegisters));
    if (threadIdx.x % kGroupThreads == 0) bring<kGroups>(args, memory);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kConsumerRegisters));
    run<kGroups>(args, memory, warpgroup);
  }
  // Until the other block needs nothing of this one's shared memory any more.
  __syncwarp();
  cluster_arrive();
  cluster_wait();
}

/// Rounds q_latent to e4m3 and lays it out; sixteen lanes have a group.
__global__ void __launch_bounds__(256)
    prompt_latents_kernel(QueryArguments args, uint8_t* latents, float* scales) {
  wait_for_predecessor();
  allow_successor();
  const int groups = args.q_rank / kQueryGroup;
  const auto token = static_cast<int>(blockIdx.x);
  const int row = token % kPromptTileTokens;
  const int source = min(token, args.num_tokens - 1);  // rows that fill up a tile are never stored
  for (int i = static_cast<int>(threadIdx.x); i < groups * kGroupLanes; i += static_cast<int>(blockDim.x)) {
    const int group = i / kGroupLanes;
    const int piece = i % kGroupLanes;
    const uint4 values[1] = {
        reinterpret_cast<const uint4*>(args.q_latent + source * args.q_latent_stride)[i]};
    const float amax = latent_amax<kGroupLanes>(values);
    const float sigma = e4m3_scale(amax, args.rounding.power_of_two_scales);
    const auto codes = [&](uint32_t pair) {
      float v[2] = {low_bf16(pair), high_bf16(pair)};
      divide(v, sigma);
      return static_cast<uint32_t>(to_e4m3x2(v[0], v[1]));
    };
    const int64_t at = int64_t{token / kPromptTileTokens} * groups + group;
    *reinterpret_cast<uint2*>(latents + at * kLatentBytes + prompt_latent_offset(row, piece)) = make_uint2(
        codes(values[0].x) | codes(values[0].y) << 16, codes(values[0].z) | codes(values[0].w) << 16);
    if (piece == 0) scales[at * kPromptTileTokens + row] = sigma;
  }
}

int padded_tokens(int num_tokens) { return (num_tokens + kTileTokens - 1) / kTileTokens * kTileTokens; }

template <int kRank>
cudaError_t launch_rank(const PromptArguments& args, int multiprocessors, cudaStream_t stream, bool pdl) {
  const int clusters = std::min(args.tiles, multiprocessors / kCluster);
  return launch_kernel(prompt_query_kernel<kRank>,
                       {.blocks = dim3(static_cast<unsigned>(clusters * kCluster)),
                        .threads = kThreads,
                        .shared_bytes = kSharedBytes,
                        .pdl = pdl},
                       stream, args);
}

}  // namespace

cudaError_t launch_prompt_queries(const QueryArguments& query, cudaStream_t stream, bool pdl) {
  const int padded = padded_tokens(query.num_tokens);
  auto* scales = reinterpret_cast<float*>(query.scratch + int64_t{padded} * query.q_rank);
  PromptArguments args{.weights = {},
                       .query = query,
                       .latents = query.scratch,
                       .scales = scales,
                       .tiles = padded / kTileTokens * (query.num_heads / kHeads)};
  const auto rank = static_cast<uint64_t>(query.q_rank);
  const uint64_t runs = static_cast<uint64_t>(query.num_heads) * kRuns;
  // [runs of 32 rows][4 pairs, 2 rows apart][4 threads, 8 rows apart][2][columns]
  cudaError_t status = encode_tensor_map<5>(&args.weights, query.weights,
                                            {.size = {rank, 2, 4, 4, runs},
                                             .stride = {rank, 8 * rank, 2 * rank, 32 * rank},
                                             .box = {kQueryGroup, 2, 4, 4, kRuns},
                                             .swizzled = true});
  if (status != cudaSuccess) return status;
  status = launch_kernel(prompt_latents_kernel,
                         {.blocks = dim3(static_cast<unsigned>(padded)), .threads = 256, .pdl = pdl}, stream,
                         query, query.scratch, scales);
  if (status != cudaSuccess) return status;
  return query.q_rank == kDeepSeekRank ? launch_rank<kDeepSeekRank>(args, num_multiprocessors(), stream, pdl)
                                       : launch_rank<kGlmRank>(args, num_multiprocessors(), stream, pdl);
}

size_t prompt_query_scratch_bytes(int num_tokens, int q_rank) {
  return static_cast<size_t>(padded_tokens(num_tokens)) *
         (static_cast<size_t>(q_rank) + static_cast<size_t>(q_rank / kQueryGroup) * sizeof(float));
}

}  // namespace fulgur::cuda
