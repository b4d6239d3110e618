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

/// (hidden, outputs) of V3.2 and GLM-5: (7168, 192), (6144, 160).
bool project_takes(const ProjectArguments& arguments);
/// All 128 blocks have to be on the device at once (they wait for one another), which they are on any whole
/// Hopper GPU unless kernels that wait likewise fill it from other streams.
cudaError_t launch_project(const ProjectArguments& arguments, cudaStream_t stream, bool pdl);
/// The same product, keys and head weights in the same kernel: hidden state to cache.
cudaError_t launch_project_keys(const ProjectArguments& arguments, const KeyArguments& keys,
                                cudaStream_t stream, bool pdl);

/// What a product with e4m3 weights makes of its other operand, in groups of 128 columns.
enum class QueryOperand {
  kScaledF16,  // bf16 times a power of two, in f16: exact for all within 2^-28 of the group's largest
  kE4m3,       // codes and a scale, as the FP8 products of other engines
};

/// q = quantize(Hadamard(rope(W_iq q_latent))), and sigma_q into the head weights.
struct QueryArguments {
  const Bf16* q_latent;  // [num_tokens, q_rank], rows 16-byte aligned
  int64_t q_latent_stride;
  QueryOperand operand;
  const uint8_t* weights;  // e4m3 [num_heads * 128, q_rank]
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
};
/// q_rank 1536 or 2048, any number of heads and tokens; made for few tokens.
bool query_takes(const QueryArguments& arguments);
cudaError_t launch_query(const QueryArguments& arguments, cudaStream_t stream, bool pdl);

}  // namespace fulgur::cuda
