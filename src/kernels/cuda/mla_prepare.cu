// MLA's projections in the absorbed form, for any shape: plain products (product.h) into f32 scratch, and an
// epilogue for each: the latent's norm, the query's two parts, the cache entry. Tokens go in tiles, which
// bounds the scratch.
//
// Cost: 2 FLOPs a weight and token, each weight read once a tile.

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/stream_launch.h"
#include "kernels/cuda/tile.h"

namespace fulgur::cuda {
namespace {

constexpr int64_t kTileTokens = 512;
constexpr int kThreads = 128;
constexpr float kLatentEps = 1e-6F;  // whatever rms_norm_eps is (docs/spec/model.md, 11.7)

/// 1 / sqrt(mean(x^2) + eps) of x [size], by the block.
__device__ float rms_scale(const float* x, int64_t size) {
  float squares = 0;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) squares = fmaf(x[i], x[i], squares);
  return 1.0F / sqrtf(block_sum(squares) / static_cast<float>(size) + kLatentEps);
}

/// A block norms a row.
template <typename T>
__global__ void __launch_bounds__(kThreads) norm_kernel(Matrix<float> x, Weight gain, Operand out) {
  wait_for_predecessor();
  allow_successor();
  const float* row = x.row(blockIdx.x);
  const float scale = rms_scale(row, x.cols);
  for (int64_t i = threadIdx.x; i < x.cols; i += kThreads)
    store(out.row<T>(blockIdx.x) + i, row[i] * scale * plain_weight_at(gain, i));
}

struct QueryArgs {
  Matrix<float> projected;  // [T, h*(dn+dr)]
  MlaShape shape;
  RopeTable rope;
  TokenBatch batch;
  Operand nope;  // out: qn [T, h*dn]
  Operand q;     // out: rope(qp), behind the r components of each head
};

/// A block takes a head of a token apart.
template <typename T>
__global__ void __launch_bounds__(kThreads) query_kernel(QueryArgs args) {
  extern __shared__ float rotated[];  // [dr]
  wait_for_predecessor();
  allow_successor();
  const MlaShape& shape = args.shape;
  const int64_t t = blockIdx.x / shape.num_heads;
  const int64_t head = blockIdx.x % shape.num_heads;
  const float* projected = args.projected.row(t) + head * (shape.nope + shape.rope);
  const auto first = static_cast<int>(threadIdx.x);
  for (int i = first; i < shape.nope; i += kThreads)
    store(args.nope.row<T>(t) + head * shape.nope + i, projected[i]);
  for (int i = first; i < shape.rope; i += kThreads) rotated[i] = projected[shape.nope + i];
  __syncthreads();
  rotate(rotated, shape.rope, shape.rope_interleave, args.rope, args.batch.position[t]);
  __syncthreads();
  T* out = args.q.row<T>(t) + head * (shape.kv_lora + shape.rope) + shape.kv_lora;
  for (int i = first; i < shape.rope; i += kThreads) store(out + i, rotated[i]);
}

struct EntryArgs {
  Matrix<float> projected;  // [T, r+dr]
  Weight gain;
  MlaShape shape;
  RopeTable rope;
  TokenBatch batch;
  PagedLatents latents;
};

/// A block finishes a token's cache entry.
template <typename T>
__global__ void __launch_bounds__(kThreads) entry_kernel(EntryArgs args) {
  extern __shared__ float rotated[];  // [dr]
  wait_for_predecessor();
  allow_successor();
  const MlaShape& shape = args.shape;
  const int64_t t = blockIdx.x;
  const float* projected = args.projected.row(t);
  const int32_t position = args.batch.position[t];
  T* entry = args.latents.entry<T>(page_of(args.batch, t, position), position % kPageTokens);
  const auto first = static_cast<int>(threadIdx.x);
  for (int i = first; i < shape.rope; i += kThreads) rotated[i] = projected[shape.kv_lora + i];
  const float scale = rms_scale(projected, shape.kv_lora);
  for (int i = first; i < shape.kv_lora; i += kThreads)
    store(entry + i, projected[i] * scale * plain_weight_at(args.gain, i));
  __syncthreads();
  rotate(rotated, shape.rope, shape.rope_interleave, args.rope, position);
  __syncthreads();
  for (int i = first; i < shape.rope; i += kThreads) store(entry + shape.kv_lora + i, rotated[i]);
}

Matrix<float> floats(const Operand& x) { return {static_cast<float*>(x.data), x.rows, x.cols, x.stride}; }

template <typename T>
void prepare_tile(Context& context, const MlaPrepare& op, const TokenBatch& batch, int64_t first) {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const Stream& stream = *context.stream;
  const MlaShape& shape = op.shape;
  const MlaWeights& w = op.weights;
  const int64_t count = batch.num_tokens;
  const Operand x = rows_of(op.x, first, count);
  const Operand q = rows_of(op.q, first, count);
  const auto tokens = static_cast<unsigned>(count);
  const size_t rope_bytes = static_cast<size_t>(shape.rope) * sizeof(float);

  Operand q_source = x;
  if (w.q_a.present()) {
    const Operand projected = arena.operand(DType::kF32, count, w.q_a.rows);
    multiply(stream, {.x = x, .w = w.q_a, .y = projected});
    q_source = rows_of(op.q_latent, first, count);
    launch(stream, "the kernel mla_prepare (query latent)", {.blocks = dim3(tokens), .threads = kThreads},
           norm_kernel<T>, floats(projected), w.q_a_norm, q_source);
  }
  const Operand projected = arena.operand(DType::kF32, count, w.q_b.rows);
  multiply(stream, {.x = q_source, .w = w.q_b, .y = projected});
  const Operand nope = arena.operand(op.q.dtype, count, int64_t{shape.num_heads} * shape.nope);
  launch(stream, "the kernel mla_prepare (queries)",
         {.blocks = dim3(tokens * static_cast<unsigned>(shape.num_heads)),
          .threads = kThreads,
          .shared_bytes = rope_bytes},
         query_kernel<T>, QueryArgs{floats(projected), shape, op.rope, batch, nope, q});
  multiply(stream, {.x = nope,
                    .w = w.uk,
                    .y = q,
                    .batches = shape.num_heads,
                    .x_batch = shape.nope,
                    .y_batch = shape.kv_lora + shape.rope});

  const Operand kv = arena.operand(DType::kF32, count, w.kv_a.rows);
  multiply(stream, {.x = x, .w = w.kv_a, .y = kv});
  launch(stream, "the kernel mla_prepare (entries)",
         {.blocks = dim3(tokens), .threads = kThreads, .shared_bytes = rope_bytes}, entry_kernel<T>,
         EntryArgs{floats(kv), w.kv_a_norm, shape, op.rope, batch, op.latents});
}

}  // namespace

void mla_prepare(Context& context, const MlaPrepare& op) {
  with_operand(op.q.dtype, [&](auto element) {
    for_each_tile(op.batch, kTileTokens, [&](const TokenBatch& batch, int64_t first) {
      prepare_tile<decltype(element)>(context, op, batch, first);
    });
  });
}

}  // namespace fulgur::cuda
