#pragma once

// The tuned kernels of indexer_prepare (docs/performance.md, "Projection, keys and queries"): what they read
// and write, as plain pointers, the shapes they take, and the scratch they want. Every pointer is device
// memory. docs/spec/model.md, section 4, has the formulas.
//
// A row of the outputs depends, bit for bit, on that token's inputs alone: each weight shape has one tree of
// sums (indexer_tiles.h), for any number of tokens, with and without PDL.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/cuda/indexer_tiles.h"

namespace fulgur::cuda {

constexpr int kIndexDim = 128;  // dI
constexpr int kIndexRope = 64;  // dr
constexpr int kMostOwnTokens = 128;

/// How keys and queries are turned and rounded.
struct IndexRounding {
  bool rope_interleaved;
  bool hadamard;
  bool e4m3;                 // codes and a scale; else bf16
  bool power_of_two_scales;  // ue8m0, rounded up
};

/// cos and sin [positions, 32], and where each row of the batch is.
struct IndexRows {
  const int32_t* position;  // [num_tokens]
  const int32_t* sequence;  // [num_tokens]
  const int32_t* pages;     // [sequences, page_stride]
  int64_t page_stride;
  const float* cos;
  const float* sin;
  int64_t rope_stride;
};

/// kw = [W_k; W_w] x.
struct ProjectArguments {
  const Bf16* x;  // [num_tokens, hidden], rows 16-byte aligned
  int64_t x_stride;
  const Bf16* weights;  // [outputs, hidden]
  int num_tokens;       // 1 to kMostOwnTokens
  int hidden;
  int outputs;
  uint32_t* partials;  // scratch of kProjectBytes: all ones before the first launch, and after every one
  float* out;          // [num_tokens, outputs]; null where keys and head weights are made of it
  int64_t out_stride;
};

/// From kw to the paged keys (LayerNorm, rope, Hadamard, rounding) and the head weights.
struct KeyArguments {
  IndexRounding rounding;
  IndexRows rows;
  const void* gain;  // [128], f32 or bf16
  const void* bias;  // [128], likewise
  bool norm_is_bf16;
  uint8_t* keys;  // pages. e4m3: [64][128] codes, then [64] f32 scales
  int64_t page_bytes;
  // bf16: component d of the key in a slot is element d / 2 * pair_stride + slot * slot_stride + d % 2
  int pair_stride;
  int slot_stride;
  float* head_weights;  // [num_tokens, outputs - 128] = w0 * weight_scale
  int64_t head_weight_stride;
  float weight_scale;
};

/// Where q_latent goes, rounded once for all heads: operand and scales as the queries' kernels read them
/// (query_latents.cuh, indexer_tiles.h).
struct LatentArguments {
  const Bf16* q_latent;  // [num_tokens, q_rank], rows 16-byte aligned
  int64_t q_latent_stride;
  int num_tokens;
  int q_rank;
  int tile_tokens;
  uint8_t* operand;  // 128-byte aligned; null: nowhere
  float* scales;
};

/// (hidden, outputs) of V3.2 and GLM-5: (7168, 192), (6144, 160).
bool project_takes(const ProjectArguments& arguments);
/// Whether the device holds all 128 blocks of a launch at once, which wait for one another's sums; throws
/// `device`. Kernels that wait likewise on other streams of the same device may still keep them apart: one
/// such stream runs at a time (make_cuda_stream).
bool projection_fits_device();
cudaError_t launch_project(const ProjectArguments& arguments, cudaStream_t stream, bool pdl);
/// The same product, keys and head weights in the same kernel: hidden state to cache. Above eight tokens it
/// also lays out q_latent.
cudaError_t launch_project_keys(const ProjectArguments& arguments, const KeyArguments& keys,
                                const LatentArguments& latents, cudaStream_t stream, bool pdl);

/// Keys and head weights of any number of tokens from kw [num_tokens, 128 + heads]. Positions, sequences,
/// page table, angles, gain and bias are read before the predecessor has ended: they must have been there
/// when it began.
struct ProjectedRows {
  const float* kw;
  int64_t stride;
  int num_tokens;
  int num_heads;
};
/// At most 64 heads, a multiple of four; rows of kw, angles and head weights aligned to 16 bytes.
bool keys_take(const ProjectedRows& projected, const KeyArguments& keys);
cudaError_t launch_keys(const ProjectedRows& projected, const KeyArguments& keys, cudaStream_t stream,
                        bool pdl);

/// q = quantize(Hadamard(rope(W_iq q_latent))), and sigma_q into the head weights. Up to 128 tokens q_latent
/// enters exactly (all but what is below 2^-28 of a group's largest) and products are summed in f32. Of a
/// prompt's, each group of 128 columns is rounded to e4m3 with a scale, and the tensor cores keep about 14
/// bits of a group's sums.
struct QueryArguments {
  const Bf16* q_latent;  // [num_tokens, q_rank], rows 16-byte aligned
  int64_t q_latent_stride;
  const uint8_t* weights;  // e4m3 [num_heads * 128, q_rank], 16-byte aligned
  const float* scales;     // [num_heads, q_rank / 128]
  int num_tokens;
  int num_heads;
  int q_rank;
  IndexRounding rounding;
  IndexRows rows;  // of which pages aren't used
  void* q;         // [num_tokens, num_heads * 128], codes or bf16
  int64_t q_stride;
  float* head_weights;  // [num_tokens, num_heads]: in and out, times sigma_q where e4m3
  int64_t head_weight_stride;
  uint8_t* scratch;  // query_scratch_bytes(), 128-byte aligned
};
/// q_rank 1536 or 2048, an even number of heads.
bool query_takes(const QueryArguments& arguments);
size_t query_scratch_bytes(int num_tokens, int q_rank);
cudaError_t launch_query(const QueryArguments& arguments, cudaStream_t stream, bool pdl);

/// The two halves of launch_query for 9 to 128 tokens: the first may be a part of launch_project_keys.
LatentArguments latents_of(const QueryArguments& arguments);
cudaError_t launch_latents(const LatentArguments& latents, cudaStream_t stream, bool pdl);
cudaError_t launch_laid_out_query(const QueryArguments& arguments, cudaStream_t stream, bool pdl);

}  // namespace fulgur::cuda
