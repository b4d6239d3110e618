#include "kernels/cuda/indexer_prepare_own.h"

#include <cmath>

#include "kernels/cuda/cuda_check.h"
#include "kernels/cuda/indexer_prepare_tuned.h"
#include "kernels/cuda/indexer_tiles.h"

namespace fulgur::cuda {
namespace {

constexpr int kFp8Block = 128;

bool has_key_form(DType dtype) { return dtype == DType::kBf16 || dtype == DType::kF8E4M3; }

IndexRounding rounding_of(const IndexerPrepare& op) {
  const bool e4m3 = op.keys.dtype == DType::kF8E4M3;
  return {.rope_interleaved = op.shape.rope_interleave,
          .hadamard = op.shape.hadamard,
          .e4m3 = e4m3,
          .power_of_two_scales = op.shape.power_of_two_scales};
}

IndexRows rows_of(const IndexerPrepare& op) {
  return {.position = op.batch.position,
          .sequence = op.batch.sequence,
          .pages = op.batch.pages.data,
          .page_stride = op.batch.pages.stride,
          .cos = op.rope.cos.data,
          .sin = op.rope.sin.data,
          .rope_stride = op.rope.cos.stride};
}

ProjectArguments project_arguments(const Stream& stream, const IndexerPrepare& op) {
  const Weight& w = op.weights.wk_weights_proj;
  return {.x = static_cast<const Bf16*>(op.x.data),
          .x_stride = op.x.stride,
          .weights = static_cast<const Bf16*>(w.data),
          .num_tokens = op.batch.num_tokens,
          .hidden = static_cast<int>(w.cols),
          .outputs = static_cast<int>(w.rows),
          .partials = stream.projection_partials(),
          .out = nullptr,
          .out_stride = 0};
}

KeyArguments key_arguments(const IndexerPrepare& op) {
  return {.rounding = rounding_of(op),
          .rows = rows_of(op),
          .gain = op.weights.k_norm_gain.data,
          .bias = op.weights.k_norm_bias.data,
          .norm_is_bf16 = op.weights.k_norm_gain.form == WeightForm::kBf16,
          .keys = static_cast<uint8_t*>(op.keys.data),
          .page_bytes = static_cast<int64_t>(op.keys.page_bytes()),
          .pair_stride = static_cast<int>(PagedKeys::offset(2, 0)),
          .slot_stride = static_cast<int>(PagedKeys::offset(0, 1)),
          .head_weights = op.head_weights.data,
          .head_weight_stride = op.head_weights.stride,
          .weight_scale =
              static_cast<float>(1.0 / std::sqrt(double{1} * op.shape.num_heads * op.shape.head_dim))};
}

ProjectedRows projected_rows(const IndexerPrepare& op, const Matrix<const float>& projected) {
  return {.kw = projected.data,
          .stride = projected.stride,
          .num_tokens = op.batch.num_tokens,
          .num_heads = op.shape.num_heads};
}

QueryArguments query_arguments(const IndexerPrepare& op) {
  const Weight& w = op.weights.wq_b;
  return {.q_latent = static_cast<const Bf16*>(op.q_latent.data),
          .q_latent_stride = op.q_latent.stride,
          .weights = static_cast<const uint8_t*>(w.data),
          .scales = w.form == WeightForm::kFp8 ? w.block_scales(0) : nullptr,
          .num_tokens = op.batch.num_tokens,
          .num_heads = op.shape.num_heads,
          .q_rank = static_cast<int>(w.cols),
          .rounding = rounding_of(op),
          .rows = rows_of(op),
          .q = op.q.data,
          .q_stride = op.q.stride,
          .head_weights = op.head_weights.data,
          .head_weight_stride = op.head_weights.stride,
          .scratch = nullptr};
}
/// The same with scratch from the arena.
QueryArguments query_arguments(Arena& arena, const IndexerPrepare& op) {
  QueryArguments args = query_arguments(op);
  if (const size_t bytes = query_scratch_bytes(args.num_tokens, args.q_rank); bytes > 0)
    args.scratch = static_cast<uint8_t*>(arena.operand(DType::kF8E4M3, 1, static_cast<int64_t>(bytes)).data);
  return args;
}

bool has_own_shape(const IndexerPrepare& op) {
  return op.projection == IndexerProjection::kFused && op.shape.head_dim == kIndexDim &&
         op.shape.rope == kIndexRope && op.rope.cos.stride == op.rope.sin.stride;
}

bool has_own_keys(const IndexerPrepare& op) {
  const WeightForm gain = op.weights.k_norm_gain.form;
  return has_own_shape(op) && has_key_form(op.keys.dtype) &&
         (gain == WeightForm::kF32 || gain == WeightForm::kBf16) && op.weights.k_norm_bias.form == gain;
}

}  // namespace

bool runs_own_kernels(const Stream& stream) { return stream.tuned() && stream.holds_projection(); }

bool own_projection_takes(const IndexerPrepare& op) {
  if (!has_own_keys(op) || op.x.dtype != DType::kBf16 ||
      op.weights.wk_weights_proj.form != WeightForm::kBf16) {
    return false;
  }
  const Weight& w = op.weights.wk_weights_proj;
  return project_takes({.x = static_cast<const Bf16*>(op.x.data),
                        .x_stride = op.x.stride,
                        .weights = static_cast<const Bf16*>(w.data),
                        .num_tokens = op.batch.num_tokens,
                        .hidden = static_cast<int>(w.cols),
                        .outputs = static_cast<int>(w.rows),
                        .partials = nullptr,
                        .out = nullptr,
                        .out_stride = 0});
}

void own_projection(Stream& stream, const IndexerPrepare& op, const Operand& projected) {
  ProjectArguments args = project_arguments(stream, op);
  args.out = static_cast<float*>(projected.data);
  args.out_stride = projected.stride;
  check(launch_project(args, stream.main(), stream.pdl()), "the kernel indexer_project");
}

void own_decode(Stream& stream, Arena& arena, const IndexerPrepare& op) {
  const ArenaScope scope(arena);
  const QueryArguments queries = query_arguments(arena, op);
  const bool few = op.batch.num_tokens <= kFewQueryTokens;
  check(launch_project_keys(project_arguments(stream, op), key_arguments(op),
                            few ? LatentArguments{} : latents_of(queries), stream.main(), stream.pdl()),
        "the kernel indexer_project (keys)");
  check(few ? launch_query(queries, stream.main(), stream.pdl())
            : launch_laid_out_query(queries, stream.main(), stream.pdl()),
        "the kernel indexer_query");
}

void own_decode_keys(Stream& stream, const IndexerPrepare& op) {
  check(
      launch_project_keys(project_arguments(stream, op), key_arguments(op), {}, stream.main(), stream.pdl()),
      "the kernel indexer_project (keys)");
}

bool own_prompt_keys_take(const IndexerPrepare& op) {
  const int64_t outputs = op.weights.wk_weights_proj.rows;
  return has_own_keys(op) && keys_take(projected_rows(op, {nullptr, 0, outputs}), key_arguments(op));
}

void own_prompt_keys(Stream& stream, const IndexerPrepare& op, const Matrix<const float>& projected) {
  check(launch_keys(projected_rows(op, projected), key_arguments(op), stream.main(), stream.pdl()),
        "the kernel indexer_keys");
}

bool own_queries_take(const IndexerPrepare& op) {
  const Weight& w = op.weights.wq_b;
  return has_own_shape(op) && w.form == WeightForm::kFp8 && w.block_rows == kFp8Block &&
         w.block_cols == kFp8Block && w.first_row % kFp8Block == 0 && op.q_latent.dtype == DType::kBf16 &&
         has_key_form(op.q.dtype) && query_takes(query_arguments(op));
}

void own_queries(Stream& stream, Arena& arena, const IndexerPrepare& op) {
  const ArenaScope scope(arena);
  check(launch_query(query_arguments(arena, op), stream.main(), stream.pdl()), "the kernel indexer_query");
}

}  // namespace fulgur::cuda
