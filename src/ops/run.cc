// The one way into a back end: checks the shapes that each op's header promises, measures, calls through the
// table.

#include <chrono>
#include <stdexcept>
#include <string>

#include "ops/attention_prepare.h"
#include "ops/backend.h"
#include "ops/context.h"
#include "ops/embed.h"
#include "ops/ffn.h"
#include "ops/indexer_prepare.h"
#include "ops/indexer_select.h"
#include "ops/linear.h"
#include "ops/mla_attention.h"
#include "ops/mla_prepare.h"
#include "ops/moe.h"
#include "ops/mtp_input.h"
#include "ops/norm.h"
#include "ops/profile.h"
#include "ops/sample.h"

namespace fulgur {
namespace {

/// Misuse by the model or runtime, never by a user.
void require(bool holds, const char* what) {
  if (!holds) throw std::logic_error(std::string("op called wrongly: ") + what);
}

/// Norms, tables and biases have elements of their own; every other weight may be of any form.
void require_plain(const Weight& weight, const char* what) {
  require(!weight.present() || is_plain(weight.form), what);
}

/// A matrix of a product, in any form whose scales its kernels can find (base/weight.h).
void require_matrix(const Weight& w, const char* what) {
  if (!w.present() || is_plain(w.form)) return;
  const bool blocks =
      w.block_rows > 0 && w.block_cols > 0 && (w.block_cols % kFp8BlockGrain == 0 || w.block_cols >= w.cols);
  require(w.scales != nullptr && (w.form == WeightForm::kFp8 ? blocks : w.cols % kNvfp4Group == 0), what);
}
void require_matrices(const FfnWeights& w, const char* what) {
  require_matrix(w.gate, what);
  require_matrix(w.up, what);
  require_matrix(w.down, what);
}

void require_start(const Context& context, const TokenBatch& batch) {
  require(batch.first_position == 0 || context.backend->later_start,
          "this back end's attention begins at position 0");
}

bool is_operand(const Operand& x) { return x.dtype == DType::kBf16 || x.dtype == DType::kF32; }

/// Entries in the dtype of the operands, or any form where the back end reads all.
void require_latents(const Context& context, const PagedLatents& latents, DType operand,
                     const MlaShape& shape) {
  const bool fp8 = latents.dtype == DType::kF8E4M3;
  require(latents.width == shape.kv_lora + shape.rope, "mla: cache entries of r+dr");
  require(!fp8 || latents.rope == shape.rope, "mla: FP8 cache entries that know dr");
  require(
      latents.dtype == operand || (context.backend->mixed_caches &&
                                   (fp8 || latents.dtype == DType::kBf16 || latents.dtype == DType::kF32)),
      "mla: cache entries of a form that the back end reads");
}

void require_keys(const Context& context, const PagedKeys& keys, const Operand& q,
                  const IndexerShape& shape) {
  require(q.dtype == keys.dtype && keys.width == shape.head_dim, "indexer: q in the form of the keys");
  const bool fp8 = keys.dtype == DType::kF8E4M3;
  require(fp8 ? context.backend->fp8_keys : is_operand(q), "indexer: keys of a form that the back end reads");
  require(!shape.hadamard || (fp8 && (shape.head_dim & (shape.head_dim - 1)) == 0),
          "indexer: the Hadamard rotation is for FP8 keys of a power of two");
}

template <typename Op>
void call(Context& context, OpKind kind, void (*function)(Context&, const Op&), const Op& op) {
  require(function != nullptr, "this back end has no kernel for it");
  if (context.profile == nullptr) return function(context, op);
  const auto start = std::chrono::steady_clock::now();
  function(context, op);
  context.profile->add(kind, std::chrono::steady_clock::now() - start);
}

}  // namespace

void run(Context& context, const Embed& op) {
  require(op.hidden.rows == op.batch.num_tokens, "embed: a row of hidden for every token");
  require(op.hidden.cols == op.table.cols, "embed: hidden as wide as the table");
  require_plain(op.table, "embed: a plain table");
  call(context, OpKind::kEmbed, context.backend->embed, op);
}

void run(Context& context, const MtpInput& op) {
  require(op.pair.rows == op.batch.num_tokens, "mtp_input: a pair for every token");
  require(op.hidden.cols == op.table.cols && op.pair.cols == 2 * op.table.cols, "mtp_input: shapes");
  require(op.enorm.cols == op.table.cols && op.hnorm.cols == op.table.cols, "mtp_input: gains");
  require(is_operand(op.hidden) && is_operand(op.pair), "mtp_input: hidden and pair are operands");
  require_plain(op.table, "mtp_input: a plain table");
  require_plain(op.enorm, "mtp_input: a plain enorm");
  require_plain(op.hnorm, "mtp_input: a plain hnorm");
  call(context, OpKind::kMtpInput, context.backend->mtp_input, op);
}

void run(Context& context, const RmsNorm& op) {
  require(op.x.cols == op.gain.cols && op.out.cols == op.x.cols && op.out.rows == op.x.rows,
          "rms_norm: shapes");
  require(is_operand(op.out), "rms_norm: out is an operand");
  require_plain(op.gain, "rms_norm: a plain gain");
  call(context, OpKind::kRmsNorm, context.backend->rms_norm, op);
}

void run(Context& context, const AddRmsNorm& op) {
  require(op.sum.cols == op.gain.cols && op.out.cols == op.sum.cols && op.out.rows == op.sum.rows,
          "add_rms_norm: shapes");
  require(op.delta.rows == op.sum.rows && op.delta.cols == op.sum.cols,
          "add_rms_norm: delta as large as sum");
  require(is_operand(op.out), "add_rms_norm: out is an operand");
  require_plain(op.gain, "add_rms_norm: a plain gain");
  call(context, OpKind::kAddRmsNorm, context.backend->add_rms_norm, op);
}

void run(Context& context, const Linear& op) {
  require(op.x.cols == op.w.cols && op.y.cols == op.w.rows && op.y.rows == op.x.rows, "linear: shapes");
  require(is_operand(op.x) && is_operand(op.y), "linear: x and y are operands");
  require_matrix(op.w, "linear: scales");
  call(context, OpKind::kLinear, context.backend->linear, op);
}

void run(Context& context, const LmHead& op) {
  require(op.hidden.cols == op.w.cols && op.logits.cols == op.w.rows, "lm_head: shapes");
  require(is_operand(op.hidden), "lm_head: hidden is an operand");
  require_matrix(op.w, "lm_head: scales");
  call(context, OpKind::kLmHead, context.backend->lm_head, op);
}

void run(Context& context, const AttentionPrepare& op) {
  if (context.backend->attention_prepare != nullptr) {
    return call(context, OpKind::kAttentionPrepare, context.backend->attention_prepare, op);
  }
  run(context, op.mla);
  if (op.indexer != nullptr) run(context, *op.indexer);
}

void run(Context& context, const MlaPrepare& op) {
  const MlaShape& s = op.shape;
  require(op.x.rows == op.batch.num_tokens && op.q.rows == op.x.rows, "mla_prepare: a row for every token");
  require(op.q.cols == int64_t{s.num_heads} * (s.kv_lora + s.rope), "mla_prepare: q is [T, h*(r+dr)]");
  require(op.q.dtype == op.x.dtype, "mla_prepare: one dtype of operands");
  require_latents(context, op.latents, op.x.dtype, s);
  require(op.weights.kv_a.rows == s.kv_lora + s.rope && op.weights.kv_a.cols == op.x.cols,
          "mla_prepare: kv_a");
  require(op.weights.uk.rows == int64_t{s.num_heads} * s.kv_lora && op.weights.uk.cols == s.nope,
          "mla_prepare: uk");
  require(op.weights.q_b.rows == int64_t{s.num_heads} * (s.nope + s.rope), "mla_prepare: q_b");
  require(!op.weights.q_a.present() || op.q_latent.cols == op.weights.q_a.rows, "mla_prepare: q_latent");
  require_plain(op.weights.q_a_norm, "mla_prepare: a plain q_a_norm");
  require_plain(op.weights.kv_a_norm, "mla_prepare: a plain kv_a_norm");
  for (const Weight* w : {&op.weights.q_a, &op.weights.q_b, &op.weights.kv_a, &op.weights.uk})
    require_matrix(*w, "mla_prepare: scales");
  call(context, OpKind::kMlaPrepare, context.backend->mla_prepare, op);
}

void run(Context& context, const IndexerPrepare& op) {
  const IndexerShape& s = op.shape;
  require(op.x.rows == op.batch.num_tokens && op.q.rows == op.x.rows,
          "indexer_prepare: a row for every token");
  require(op.q.cols == int64_t{s.num_heads} * s.head_dim, "indexer_prepare: q is [T, nI*dI]");
  require_keys(context, op.keys, op.q, s);
  require(op.head_weights.rows == op.x.rows && op.head_weights.cols == s.num_heads,
          "indexer_prepare: head weights");
  require(op.weights.wk_weights_proj.rows == s.head_dim + s.num_heads,
          "indexer_prepare: wk_weights_proj is [dI+nI, d]");
  require(op.weights.wq_b.rows == op.q.cols && op.weights.wq_b.cols == op.q_latent.cols,
          "indexer_prepare: wq_b");
  require_plain(op.weights.k_norm_gain, "indexer_prepare: a plain k_norm");
  require_plain(op.weights.k_norm_bias, "indexer_prepare: a plain k_norm bias");
  require_matrix(op.weights.wk_weights_proj, "indexer_prepare: scales");
  require_matrix(op.weights.wq_b, "indexer_prepare: scales");
  call(context, OpKind::kIndexerPrepare, context.backend->indexer_prepare, op);
}

void run(Context& context, const IndexerSelect& op) {
  require(op.q.rows == op.batch.num_tokens && op.selected.rows == op.q.rows,
          "indexer_select: a row for every token");
  require_keys(context, op.keys, op.q, op.shape);
  require(op.selected.cols >= 1, "indexer_select: index_topk is at least 1");
  require(
      op.slots.data == nullptr || (op.slots.rows == op.selected.rows && op.slots.cols == op.selected.cols),
      "indexer_select: a slot for every selected position");
  require_start(context, op.batch);
  call(context, OpKind::kIndexerSelect, context.backend->indexer_select, op);
}

void run(Context& context, const IndexerScores& op) {
  require(op.q.rows == op.batch.num_tokens && op.scores.rows == op.q.rows,
          "indexer_scores: a row for every token");
  require_keys(context, op.keys, op.q, op.shape);
  require(op.scores.cols >= op.batch.max_context, "indexer_scores: a column for every position");
  require_start(context, op.batch);
  call(context, OpKind::kIndexerScores, context.backend->indexer_scores, op);
}

void run(Context& context, const SparseMla& op) {
  require(op.q.rows == op.batch.num_tokens && op.u.rows == op.q.rows, "sparse_mla: a row for every token");
  require(op.u.cols == int64_t{op.shape.num_heads} * op.shape.kv_lora, "sparse_mla: u is [T, h*r]");
  require(op.u.dtype == op.q.dtype, "sparse_mla: one dtype of operands");
  require_latents(context, op.latents, op.q.dtype, op.shape);
  require(op.selected.rows == op.q.rows, "sparse_mla: a selection for every token");
  call(context, OpKind::kSparseMla, context.backend->sparse_mla, op);
}

void run(Context& context, const DenseMla& op) {
  require(op.q.rows == op.batch.num_tokens && op.u.rows == op.q.rows, "dense_mla: a row for every token");
  require(op.u.cols == int64_t{op.shape.num_heads} * op.shape.kv_lora, "dense_mla: u is [T, h*r]");
  require(op.u.dtype == op.q.dtype, "dense_mla: one dtype of operands");
  require_latents(context, op.latents, op.q.dtype, op.shape);
  require_start(context, op.batch);
  call(context, OpKind::kDenseMla, context.backend->dense_mla, op);
}

void run(Context& context, const MlaOutput& op) {
  const MlaShape& s = op.shape;
  require(op.u.cols == int64_t{s.num_heads} * s.kv_lora && op.delta.rows == op.u.rows, "mla_output: shapes");
  require(op.weights.uv.rows == int64_t{s.num_heads} * s.value && op.weights.uv.cols == s.kv_lora,
          "mla_output: uv");
  require(op.weights.o.rows == op.delta.cols && op.weights.o.cols == op.weights.uv.rows, "mla_output: o");
  require_matrix(op.weights.uv, "mla_output: scales");
  require_matrix(op.weights.o, "mla_output: scales");
  call(context, OpKind::kMlaOutput, context.backend->mla_output, op);
}

void run(Context& context, const Ffn& op) {
  require(op.x.cols == op.weights.gate.cols && op.x.cols == op.weights.up.cols, "ffn: gate and up");
  require(op.weights.gate.rows == op.weights.up.rows && op.weights.down.cols == op.weights.up.rows,
          "ffn: width");
  require(op.delta.rows == op.x.rows && op.delta.cols == op.weights.down.rows, "ffn: delta");
  require_matrices(op.weights, "ffn: scales");
  call(context, OpKind::kFfn, context.backend->ffn, op);
}

void run(Context& context, const Moe& op) {
  const auto num_experts = static_cast<int64_t>(op.weights.experts.size());
  require(op.weights.router.rows == num_experts && op.weights.router.cols == op.x.cols, "moe: router");
  require(op.weights.correction_bias.cols == num_experts, "moe: correction bias");
  require(op.delta.rows == op.x.rows && op.x.rows == op.batch.num_tokens, "moe: a row for every token");
  require_plain(op.weights.correction_bias, "moe: a plain correction bias");
  require_matrix(op.weights.router, "moe: scales");
  require_matrices(op.weights.shared, "moe: scales");
  for (const FfnWeights& expert : op.weights.experts) require_matrices(expert, "moe: scales");
  call(context, OpKind::kMoe, context.backend->moe, op);
}

void run(Context& context, const Sample& op) { call(context, OpKind::kSample, context.backend->sample, op); }

}  // namespace fulgur
