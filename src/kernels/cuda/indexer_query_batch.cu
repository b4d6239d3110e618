// The indexer's queries of 9 to 128 tokens: the same sums, bit for bit, as those of few tokens
// (indexer_query.cu), with every weight read from DRAM once and made f16 once or a few times in all.
//
// q_latent is laid out in f16 once (query_latents.cuh). A block then has a head and a tile of tokens, so that
// as many blocks as there are multiprocessors share the product: 2 tiles of 64 heads, 4 of 32. One warp
// copies, group of 128 columns by group, the head's codes (a tensor copy of two steps of 128 x 64 bytes, the
// first ones before the predecessor has ended) and the tile's f16 into a ring. Eight warps have 16 rows each
// as wgmma's A, converted in registers, and the tile as B; of each group a chain of eight products, as the
// few's mmas go. What two blocks read of a head, the second one finds in L2: 25 MB from there for V3.2
// beside 12.6 from DRAM. Then the sums change hands in shared memory, and a warp finishes a head's 128
// components a token.
//
// Cost at 128 tokens, V3.2: 3.2 GFLOP (3.4 us in f16 at the peak) behind 12.6 MB (4.8 us cold).

#include "kernels/cuda/indexer_queries.h"
#include "kernels/cuda/query_finish.cuh"
#include "kernels/cuda/query_latents.cuh"
#include "kernels/cuda/tensor_copy.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/wgmma.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kConsumers = 256;  // two warpgroups of 64 rows
constexpr int kConsumerWarps = kConsumers / kWarpLanes;
constexpr int kThreads = kConsumers + 2 * kWarpLanes;
constexpr int kGroupRowBytes = 2 * kQueryStep;
constexpr int kWeightBytes = kIndexDim * kQueryGroup;  // of a stage
constexpr int kSumPitch = kIndexDim + 4;               // floats: D's columns touch all banks
constexpr int kAlignment = 1024;                       // of a swizzled block

template <int kRank, int kTokens_>
struct BatchShape {
  static constexpr int kTokens = kTokens_;
  static constexpr int kGroups = kRank / kQueryGroup;
  static constexpr int kGroupsOfPart = kGroups / kQueryParts;
  static constexpr int kLatentBytes = kTokens * 2 * kQueryGroup;
  static constexpr int kStageBytes = kWeightBytes + kLatentBytes;
  static constexpr int kScaleBytes = kTokens * static_cast<int>(sizeof(float));
  static constexpr int kSums = kTokens / 2;  // of a thread
  static constexpr size_t shared_bytes(int stages) {
    return static_cast<size_t>(stages) * (kStageBytes + kScaleBytes) + kTokens * sizeof(HeadInputs) +
           kTokens * kSumPitch * sizeof(float) + kAlignment;
  }
  // Of few tokens, the predecessor's blocks leave room for so much beside them.
  static constexpr int kRegisters = kTokens <= 16 ? 112 : 168;
  static constexpr size_t kBudget = kTokens <= 32 ? 160 << 10 : 226 << 10;
  static constexpr int stages() {
    int stages = kGroups;
    while (shared_bytes(stages) > kBudget) --stages;
    return stages;
  }
  static constexpr int kStages = stages();
};

struct BatchArguments {
  CUtensorMap weights;  // [q_rank / 64, num_heads * 128, 64], boxes of 2 x 128 x 64
  QueryArguments query;
  LatentArguments latents;
};

/// A block's shared memory.
template <typename Shape>
struct BatchMemory {
  uint8_t* stages;     // of weights, then tokens
  float* scales;       // [stages][tokens]
  float* sums;         // [tokens][rows]
  HeadInputs* inputs;  // [tokens]

  __device__ explicit BatchMemory(uint8_t* unaligned)
      : stages(unaligned + (kAlignment - shared_address(unaligned) % kAlignment) % kAlignment),
        scales(reinterpret_cast<float*>(stages + Shape::kStages * Shape::kStageBytes)),
        sums(scales + Shape::kStages * Shape::kTokens),
        inputs(reinterpret_cast<HeadInputs*>(sums + Shape::kTokens * kSumPitch)) {}
  __device__ uint8_t* weights(int stage) const { return stages + stage * Shape::kStageBytes; }
  __device__ uint8_t* latents(int stage) const { return weights(stage) + kWeightBytes; }
  __device__ float* latent_scales(int stage) const { return scales + stage * Shape::kTokens; }
};

/// A ring's place: stage and the parity of its barriers.
template <typename Shape>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage == Shape::kStages) stage = 0, parity ^= 1;
  }
};

/// One thread brings everything: before the predecessor's end, weights only.
template <typename Shape>
__device__ void bring(const BatchArguments& args, const BatchMemory<Shape>& memory, uint64_t* full,
                      uint64_t* empty, int head, int tile) {
  const auto bring_weights = [&](int group, int stage) {
    mbarrier_expect(full + stage, Shape::kStageBytes + Shape::kScaleBytes);
    tensor_copy(memory.weights(stage), args.weights, group * 2, head * kIndexDim, full + stage);
  };
  const auto bring_latents = [&](int group, int stage) {
    const int64_t at = int64_t{tile} * Shape::kGroups + group;
    bulk_copy(memory.latents(stage), args.latents.operand + at * Shape::kLatentBytes, Shape::kLatentBytes,
              full + stage);
    bulk_copy(memory.latent_scales(stage), args.latents.scales + at * Shape::kTokens, Shape::kScaleBytes,
              full + stage);
  };
  constexpr int kEarly = Shape::kStages;
#pragma unroll 1
  for (int group = 0; group < kEarly; ++group) bring_weights(group, group);
  wait_for_predecessor();
#pragma unroll 1
  for (int group = 0; group < kEarly; ++group) bring_latents(group, group);
  RingPlace<Shape> place;
#pragma unroll 1
  for (int group = kEarly; group < Shape::kGroups; ++group) {
    mbarrier_wait(empty + place.stage, place.parity);
    bring_weights(group, place.stage);
    bring_latents(group, place.stage);
    place.advance();
  }
}

/// What the tile's heads need beside the product, by one warp.
template <typename Shape>
__device__ void copy_inputs(const QueryArguments& query, HeadInputs* inputs, int first_token, int head,
                            int lane) {
  const int count = min(Shape::kTokens, query.num_tokens - first_token);
#pragma unroll 1
  for (int first = 0; first < count; first += kWarpLanes) {
    const int own = first + lane;
    const int position = own < count ? query.rows.position[first_token + own] : 0;
    if (own < count && query.rounding.e4m3) inputs[own].copy_weight(query, first_token + own, head);
    constexpr int kAtOnce = kWarpLanes / HeadInputs::kPieces;
#pragma unroll 4
    for (int i = 0; i < min(kWarpLanes, Shape::kTokens); i += kAtOnce) {
      const int token = i + lane / HeadInputs::kPieces;
      const int at = __shfl_sync(kAllLanes, position, token);
      if (first + token < count)
        inputs[first + token].copy_angles(query.rows, at, lane % HeadInputs::kPieces);
    }
  }
}

/// A warp's share of a head's product with a tile of tokens. A group's weights are converted beside the
/// products of the one before.
template <typename Shape>
class BatchProduct {
 public:
  __device__ BatchProduct(const BatchMemory<Shape>& memory, uint64_t* full, uint64_t* empty,
                          const float* weight_scales, int warp, int lane)
      : memory_(memory),
        full_(full),
        empty_(empty),
        weight_scales_(weight_scales),
        warp_(warp),
        lane_(lane) {}

  /// All columns' sums, to memory.sums.
  __device__ void run() {
    Fragments even;
    Fragments odd;
    load(even);
#pragma unroll 1
    for (int group = 0; group < Shape::kGroups; group += 2) {
      multiply(even);
      load(odd);
      add(group);
      multiply(odd);
      if (group + 2 < Shape::kGroups) load(even);
      add(group + 1);
    }
  }

 private:
  static constexpr int kProducts = kQueryGroup / 16;
  using Fragments = uint32_t[kProducts][4];

  /// The next group's weights in f16, as soon as they and its tokens are there.
  __device__ void load(Fragments& a) {
    mbarrier_wait(full_ + loaded_.stage, loaded_.parity);
    // [steps][rows][64 bytes]: eight lanes that load a piece each touch all banks.
    const uint8_t* weights = memory_.weights(loaded_.stage) + piece_offset(lane_) +
                             (warp_ * 16 + fragment_row(lane_)) * kQueryStep;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int below = 0; below < 2; ++below) {  // eight rows
        const uint4 codes =
            *reinterpret_cast<const uint4*>(weights + (step * kIndexDim + below * 8) * kQueryStep);
        const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
        for (int word = 0; word < 4; ++word) {
          uint32_t(&product)[4] = a[step * 4 + word];
          weight_fragment(product[below], product[2 + below], words[word]);
        }
      }
    }
    loaded_.advance();
  }
  /// Begins the products of a group.
  __device__ void multiply(const Fragments& a) {
    const uint64_t latents = swizzled_operand(shared_address(memory_.latents(multiplied_.stage)));
    pin(d_);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
      const int at = i / 4 * Shape::kTokens * kGroupRowBytes + i % 4 * 32;
      wgmma_f16(d_, a[i], latents + static_cast<uint64_t>(at >> 4), i > 0 ? 1 : 0);
    }
    wgmma_commit();
  }
  /// Ends them, and adds what they gave.
  __device__ void add(int group) {
    const float weight_scale = weight_scales_[group];
    float2 scales[Shape::kTokens / 8];
#pragma unroll
    for (int j = 0; j < Shape::kTokens / 8; ++j) {
      scales[j] = *reinterpret_cast<const float2*>(memory_.latent_scales(multiplied_.stage) + 8 * j +
                                                   fragment_token(lane_));
    }
    wgmma_wait<0>();
    pin(d_);
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(empty_ + multiplied_.stage);
    multiplied_.advance();
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) {
      const float scale = weight_scale * (i % 2 == 0 ? scales[i / 4].x : scales[i / 4].y);
      sums_[i] = fmaf(d_[i], scale, sums_[i]);
    }
    if (group % Shape::kGroupsOfPart < Shape::kGroupsOfPart - 1) return;
    const bool first = group < Shape::kGroupsOfPart;
#pragma unroll
    for (int i = 0; i < Shape::kSums; ++i) {
      float& total = total_at(i);  // that this thread alone reads and writes
      total = first ? sums_[i] : total + sums_[i];
      sums_[i] = 0;
    }
  }
  __device__ float& total_at(int i) const {
    const int token = i / 4 * 8 + fragment_token(lane_) + i % 2;
    return memory_.sums[token * kSumPitch + warp_ * 16 + fragment_row(lane_) + i % 4 / 2 * 8];
  }

  const BatchMemory<Shape>& memory_;
  uint64_t* full_;
  uint64_t* empty_;
  const float* weight_scales_;
  int warp_;
  int lane_;
  RingPlace<Shape> loaded_;
  RingPlace<Shape> multiplied_;
  float d_[Shape::kSums];
  float sums_[Shape::kSums] = {};  // of the part so far
};

template <int kRank, int kTokens>
__global__ void __maxnreg__((BatchShape<kRank, kTokens>::kRegisters))
    batch_query_kernel(const __grid_constant__ BatchArguments args) {
  using Shape = BatchShape<kRank, kTokens>;
  extern __shared__ uint8_t unaligned[];
  __shared__ uint64_t full[Shape::kGroups];
  __shared__ uint64_t empty[Shape::kGroups];
  __shared__ uint64_t inputs_arrived;
  __shared__ float weight_scales[Shape::kGroups];
  const BatchMemory<Shape> memory(unaligned);
  const QueryArguments& query = args.query;
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarpLanes;
  const int lane = thread % kWarpLanes;
  const auto tile = static_cast<int>(blockIdx.x);
  const auto head = static_cast<int>(blockIdx.y);
  if (thread == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, kConsumerWarps);
    }
    mbarrier_init(&inputs_arrived, kWarpLanes);
    fence_mbarrier_init();
  }
  if (thread < Shape::kGroups) weight_scales[thread] = query.scales[head * Shape::kGroups + thread];
  __syncthreads();
  allow_successor();
  if (warp == kConsumerWarps) {
    if (lane == 0) bring<Shape>(args, memory, full, empty, head, tile);
    return;
  }
  const int first_token = tile * Shape::kTokens;
  if (warp == kConsumerWarps + 1) {
    wait_for_predecessor();
    copy_inputs<Shape>(query, memory.inputs, first_token, head, lane);
    arrive_with_copies(&inputs_arrived);
    return;
  }
  wait_for_predecessor();
  BatchProduct<Shape>(memory, full, empty, weight_scales, warp, lane).run();
  mbarrier_wait(&inputs_arrived, 0);
  constexpr uint32_t kConsumersBarrier = 1;
  named_barrier(kConsumersBarrier, kConsumers);
  constexpr int kOwn = Shape::kTokens / kConsumerWarps;  // a warp finishes tokens warp, warp + 8, ...
#pragma unroll 4
  for (int i = 0; i < kOwn; ++i) {
    const int of_tile = warp + i * kConsumerWarps;
    if (first_token + of_tile >= query.num_tokens) break;
    float v[kParts];
#pragma unroll
    for (int part = 0; part < kParts; ++part)
      v[part] = memory.sums[of_tile * kSumPitch + lane + kWarpLanes * part];
    finish_head(v, query, first_token + of_tile, head, memory.inputs[of_tile], memory.inputs[of_tile].weight,
                lane);
  }
}

template <int kRank, int kTokens>
cudaError_t launch_tokens(BatchArguments& args, cudaStream_t stream, bool pdl) {
  using Shape = BatchShape<kRank, kTokens>;
  const QueryArguments& query = args.query;
  const int tiles = (query.num_tokens + kTokens - 1) / kTokens;
  return launch_kernel(batch_query_kernel<kRank, kTokens>,
                       {.blocks = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(query.num_heads)),
                        .threads = kThreads,
                        .shared_bytes = Shape::shared_bytes(Shape::kStages),
                        .pdl = pdl},
                       stream, args);
}

template <int kRank>
cudaError_t launch_rank(BatchArguments& args, cudaStream_t stream, bool pdl) {
  switch (args.latents.tile_tokens) {
    case 8:
      return launch_tokens<kRank, 8>(args, stream, pdl);
    case 16:
      return launch_tokens<kRank, 16>(args, stream, pdl);
    case 32:
      return launch_tokens<kRank, 32>(args, stream, pdl);
    default:
      return launch_tokens<kRank, 64>(args, stream, pdl);
  }
}

/// A warp for two groups of a token.
__global__ void __launch_bounds__(kConsumers) latents_kernel(LatentArguments args) {
  wait_for_predecessor();
  allow_successor();
  const int lanes = args.q_rank / kQueryGroup * kGroupLanes;
  for (int i = static_cast<int>(threadIdx.x); i < lanes; i += kConsumers)
    lay_out_piece(args, static_cast<int>(blockIdx.x), i / kGroupLanes, i % kGroupLanes);
}

}  // namespace

LatentArguments latents_of(const QueryArguments& args) {
  const int tile = batch_tile_tokens(args.num_tokens, args.num_heads);
  const int padded = (args.num_tokens + tile - 1) / tile * tile;
  return {.q_latent = args.q_latent,
          .q_latent_stride = args.q_latent_stride,
          .num_tokens = args.num_tokens,
          .q_rank = args.q_rank,
          .tile_tokens = tile,
          .operand = args.scratch,
          .scales = reinterpret_cast<float*>(args.scratch + int64_t{padded} * args.q_rank * 2)};
}

cudaError_t launch_latents(const LatentArguments& latents, cudaStream_t stream, bool pdl) {
  const int tile = latents.tile_tokens;
  const int padded = (latents.num_tokens + tile - 1) / tile * tile;
  return launch_kernel(latents_kernel,
                       {.blocks = dim3(static_cast<unsigned>(padded)), .threads = kConsumers, .pdl = pdl},
                       stream, latents);
}

cudaError_t launch_laid_out_query(const QueryArguments& query, cudaStream_t stream, bool pdl) {
  BatchArguments args{.weights = {}, .query = query, .latents = latents_of(query)};
  const auto rank = static_cast<uint64_t>(query.q_rank);
  const uint64_t rows = static_cast<uint64_t>(query.num_heads) * kIndexDim;
  const cudaError_t status = encode_tensor_map<3>(&args.weights, query.weights,
                                                  {.size = {kQueryStep, rows, rank / kQueryStep},
                                                   .stride = {rank, kQueryStep},
                                                   .box = {kQueryStep, kIndexDim, kQueryGroup / kQueryStep},
                                                   .swizzled = false});
  if (status != cudaSuccess) return status;
  return query.q_rank == kDeepSeekRank ? launch_rank<kDeepSeekRank>(args, stream, pdl)
                                       : launch_rank<kGlmRank>(args, stream, pdl);
}

}  // namespace fulgur::cuda
