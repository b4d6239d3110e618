// The lightning indexer's first half, for any shape: the projections, then one epilogue for keys and one for
// queries.
//
// [W_k; W_w] x goes to f32 scratch, by cuBLASLt where it takes the operands (bf16, aligned), as one product,
// as two, or as two on two streams; else by the plain product. The queries' product is always ours, so that
// their bits don't depend on the other rows. A block finishes a token's key (LayerNorm, rope, Hadamard,
// rounding, the page), another one a head of its query. Tokens go in tiles, which bounds the scratch; a
// prompt's are alike in size, so none of them is as small as a decode step, whose queries round elsewhere.
//
// Cost: 2 FLOPs a weight and token, each weight read once a tile; 4 bytes of scratch written and read an
// output.

#include <cmath>
#include <type_traits>

#include "kernels/cuda/cublas_lt.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/index_keys.cuh"
#include "kernels/cuda/indexer_prepare_own.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/stream_launch.h"
#include "kernels/cuda/tile.h"

namespace fulgur::cuda {
namespace {

constexpr int64_t kTileTokens = 512;      // of V3.2's queries in f32: 16 MiB
constexpr int64_t kOwnTileTokens = 8192;  // of V3.2's kw and rounded q_latent: 19 MiB
constexpr int kThreads = 128;             // a component of a key each
constexpr float kLayerNormEps = 1e-6F;

/// Each component of x [dI] in its form: `put(i, value)` for bf16 and f32, `put(i, code)` and the returned
/// scale for FP8.
template <typename T, typename Put>
__device__ float put_rounded(const float* x, const IndexerShape& shape, Put put) {
  const auto first = static_cast<int>(threadIdx.x);
  float scale = 1;
  if constexpr (std::is_same_v<T, E4m3>) {
    float amax = 0;
    for (int i = first; i < shape.head_dim; i += kThreads) amax = fmaxf(amax, fabsf(x[i]));
    scale = fp8_scale(block_max(amax), shape.power_of_two_scales);
    for (int i = first; i < shape.head_dim; i += kThreads) put(i, E4m3{to_e4m3(x[i] / scale)});
  } else {
    for (int i = first; i < shape.head_dim; i += kThreads) {
      T element;
      store(&element, x[i]);
      put(i, element);
    }
  }
  return scale;
}

/// Rope and Hadamard, on x [dI] in shared memory.
__device__ void turn(float* x, const IndexerShape& shape, const RopeTable& rope, int32_t position) {
  __syncthreads();
  rotate(x, shape.rope, shape.rope_interleave, rope, position);
  if (shape.hadamard) hadamard(x, shape.head_dim);
  __syncthreads();
}

struct KeyArgs {
  Matrix<float> projected;  // [T, dI + nI]: k0, then w0
  Weight gain;
  Weight bias;
  IndexerShape shape;
  RopeTable rope;
  TokenBatch batch;
  PagedKeys keys;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) key_kernel(KeyArgs args) {
  extern __shared__ float x[];  // [dI]
  wait_for_predecessor();
  allow_successor();
  const int64_t t = blockIdx.x;
  const int dim = args.shape.head_dim;
  const auto first = static_cast<int>(threadIdx.x);
  const float* projected = args.projected.row(t);

  float sum = 0;
  for (int i = first; i < dim; i += kThreads) sum += projected[i];
  const float mean = block_sum(sum) / static_cast<float>(dim);
  float squares = 0;
  for (int i = first; i < dim; i += kThreads) {
    x[i] = projected[i] - mean;
    squares = fmaf(x[i], x[i], squares);
  }
  const float variance = block_sum(squares) / static_cast<float>(dim);
  const float scale = 1.0F / sqrtf(variance + kLayerNormEps);
  for (int i = first; i < dim; i += kThreads)
    x[i] = fmaf(x[i] * scale, plain_weight_at(args.gain, i), plain_weight_at(args.bias, i));

  const int32_t position = args.batch.position[t];
  turn(x, args.shape, args.rope, position);
  const int32_t page = page_of(args.batch, t, position);
  const int slot = position % kPageTokens;
  if constexpr (std::is_same_v<T, E4m3>) {
    uint8_t* codes = fp8_page(args.keys, page) + slot * dim;
    const float sigma = put_rounded<T>(x, args.shape, [&](int i, E4m3 e) { codes[i] = e.code; });
    if (threadIdx.x == 0) fp8_scales(args.keys, page)[slot] = sigma;
  } else {
    T* out = args.keys.page<T>(page);
    put_rounded<T>(x, args.shape, [&](int i, T e) { out[PagedKeys::offset(i, slot)] = e; });
    if (dim % 2 != 0 && threadIdx.x == 0) out[PagedKeys::offset(dim, slot)] = T{};
  }
}

struct QueryArgs {
  Matrix<float> queries;            // [T, nI*dI], before rope
  Matrix<const float> raw_weights;  // [T, nI]
  IndexerShape shape;
  RopeTable rope;
  TokenBatch batch;
  Operand q;
  Matrix<float> head_weights;
  float weight_scale;
};

template <typename T>
__global__ void __launch_bounds__(kThreads) query_kernel(QueryArgs args) {
  extern __shared__ float x[];  // [dI]
  wait_for_predecessor();
  allow_successor();
  const int dim = args.shape.head_dim;
  const int64_t t = blockIdx.x / args.shape.num_heads;
  const auto head = static_cast<int>(blockIdx.x % args.shape.num_heads);
  const float* query = args.queries.row(t) + int64_t{head} * dim;
  for (int i = static_cast<int>(threadIdx.x); i < dim; i += kThreads) x[i] = query[i];
  turn(x, args.shape, args.rope, args.batch.position[t]);
  T* out = args.q.row<T>(t) + int64_t{head} * dim;
  const float sigma = put_rounded<T>(x, args.shape, [&](int i, T e) { out[i] = e; });
  if (threadIdx.x == 0)
    args.head_weights.row(t)[head] = args.raw_weights.row(t)[head] * args.weight_scale * sigma;
}

/// The op of some of its rows.
IndexerPrepare tile_of(const IndexerPrepare& op, const TokenBatch& batch, int64_t first) {
  const int64_t count = batch.num_tokens;
  return {.x = rows_of(op.x, first, count),
          .q_latent = rows_of(op.q_latent, first, count),
          .weights = op.weights,
          .shape = op.shape,
          .projection = op.projection,
          .rope = op.rope,
          .batch = batch,
          .q = rows_of(op.q, first, count),
          .head_weights = {op.head_weights.row(first), count, op.head_weights.cols, op.head_weights.stride},
          .keys = op.keys};
}

/// Outputs [first, first + w.rows) of [W_k; W_w] x.
void project(Stream& stream, bool on_side, const Operand& x, const Weight& w, Operand projected,
             int64_t first) {
  projected.data = static_cast<float*>(projected.data) + first;
  projected.cols = w.rows;
  if (cublas_takes(x, w, projected)) {
    stream.cublas_lt().multiply(on_side ? stream.side() : stream.main(), on_side, x, w, projected);
  } else {
    multiply(stream, {.x = x, .w = w, .y = projected, .on_side = on_side});
  }
}

void project(Stream& stream, const IndexerPrepare& op, const Operand& x, const Operand& projected) {
  const Weight& w = op.weights.wk_weights_proj;
  const Weight keys = w.take_rows(0, op.shape.head_dim);
  const Weight head_weights = w.take_rows(op.shape.head_dim, op.shape.num_heads);
  switch (op.projection) {
    case IndexerProjection::kFused:
      return project(stream, false, x, w, projected, 0);
    case IndexerProjection::kSeparate:
      project(stream, false, x, keys, projected, 0);
      return project(stream, false, x, head_weights, projected, keys.rows);
    case IndexerProjection::kOverlapped:
      stream.fork();
      project(stream, false, x, keys, projected, 0);
      project(stream, true, x, head_weights, projected, keys.rows);
      return stream.join();
  }
}

/// `op` over the tokens of a tile.
void make_keys(const Stream& stream, const IndexerPrepare& op, const TokenBatch& batch,
               const Matrix<float>& projected) {
  with_key_element(op.keys.dtype, [&](auto element) {
    launch(stream, "the kernel indexer_prepare (keys)",
           {.blocks = dim3(static_cast<unsigned>(batch.num_tokens)),
            .threads = kThreads,
            .shared_bytes = static_cast<size_t>(op.shape.head_dim) * sizeof(float),
            .pdl = op.projection != IndexerProjection::kOverlapped},
           key_kernel<decltype(element)>,
           KeyArgs{projected, op.weights.k_norm_gain, op.weights.k_norm_bias, op.shape, op.rope, batch,
                   op.keys});
  });
}

/// The same for its queries; `raw_weights` times `weight_scale` become head weights.
void make_queries(const Stream& stream, Arena& arena, const IndexerPrepare& op, const TokenBatch& batch,
                  int64_t first, const Matrix<const float>& raw_weights, float weight_scale) {
  const int64_t count = batch.num_tokens;
  const Operand queries = arena.operand(DType::kF32, count, op.weights.wq_b.rows);
  multiply(stream, {.x = rows_of(op.q_latent, first, count), .w = op.weights.wq_b, .y = queries});
  with_key_element(op.keys.dtype, [&](auto element) {
    launch(stream, "the kernel indexer_prepare (queries)",
           {.blocks = dim3(static_cast<unsigned>(count * op.shape.num_heads)),
            .threads = kThreads,
            .shared_bytes = static_cast<size_t>(op.shape.head_dim) * sizeof(float)},
           query_kernel<decltype(element)>,
           QueryArgs{{static_cast<float*>(queries.data), count, queries.cols},
                     raw_weights,
                     op.shape,
                     op.rope,
                     batch,
                     rows_of(op.q, first, count),
                     {op.head_weights.row(first), count, op.head_weights.cols, op.head_weights.stride},
                     weight_scale});
  });
}

}  // namespace

}  // namespace fulgur::cuda

namespace fulgur {

void queue_projection(Context& context, const IndexerPrepare& op, const Operand& projected) {
  cuda::Stream& stream = *context.stream;
  if (cuda::runs_own_kernels(stream) && cuda::own_projection_takes(op))
    return cuda::own_projection(stream, op, projected);
  cuda::project(stream, op, op.x, projected);
}

bool has_tuned_kernels(const IndexerPrepare& op) {
  return cuda::own_projection_takes(op) && cuda::own_queries_take(op);
}

}  // namespace fulgur

namespace fulgur::cuda {

void indexer_prepare(Context& context, const IndexerPrepare& op) {
  Stream& stream = *context.stream;
  Arena& arena = *context.arena;
  const bool own = runs_own_kernels(stream);
  const bool own_queries_too = own && own_queries_take(op);
  if (own && own_projection_takes(op)) {
    if (own_queries_too) return own_decode(stream, arena, op);
    own_decode_keys(stream, op);
    const ArenaScope scope(arena);
    return make_queries(stream, arena, op, op.batch, 0, op.head_weights, 1);
  }
  const bool own_epilogues = own_queries_too && own_prompt_keys_take(op);
  const auto weight_scale =
      static_cast<float>(1.0 / std::sqrt(double{1} * op.shape.num_heads * op.shape.head_dim));
  for_each_tile(
      op.batch, own_epilogues ? kOwnTileTokens : kTileTokens, [&](const TokenBatch& batch, int64_t first) {
        const ArenaScope scope(arena);
        const int64_t count = batch.num_tokens;
        const Operand projected = arena.operand(DType::kF32, count, op.weights.wk_weights_proj.rows);
        const Matrix<float> rows{static_cast<float*>(projected.data), count, projected.cols};
        project(stream, op, rows_of(op.x, first, count), projected);
        if (own_epilogues) {
          const IndexerPrepare tile = tile_of(op, batch, first);
          own_prompt_keys(stream, tile, rows);
          return own_queries(stream, arena, tile);
        }
        make_keys(stream, op, batch, rows);
        make_queries(stream, arena, op, batch, first,
                     {rows.data + op.shape.head_dim, count, op.shape.num_heads, rows.stride}, weight_scale);
      });
}

}  // namespace fulgur::cuda
