#include "model/layer.h"

#include <algorithm>
#include <bit>

#include "ops/attention_prepare.h"
#include "ops/ffn.h"
#include "ops/indexer_select.h"
#include "ops/mla_attention.h"
#include "ops/norm.h"

namespace fulgur {

void add_norm(Step& step, Residual& residual, const Weight& gain, float eps, const Operand& out) {
  if (residual.pending) {
    run(step.context, AddRmsNorm{residual.sum, residual.delta, gain, eps, out});
    residual.pending = false;
  } else {
    run(step.context, RmsNorm{residual.sum, gain, eps, out});
  }
}

Operand add_norm(Step& step, Residual& residual, const Weight& gain, float eps) {
  const Operand out = step.context.arena->operand(step.operand_dtype, residual.sum.rows, residual.sum.cols);
  add_norm(step, residual, gain, eps, out);
  return out;
}

void allocate_selection(Step& step, const Config& config) {
  if (!config.sparse()) return;
  const int64_t width =
      step.selection == nullptr ? config.index_topk : step.selection->width(config.index_topk);
  // No row has more candidates than max_context, whatever index_topk allows.
  step.selected = step.context.arena->matrix<int32_t>(step.batch.num_tokens,
                                                      std::min<int64_t>(width, step.batch.max_context));
}

Indexer::Indexer(const Config& config, int layer, const IndexerWeights& weights)
    : layer_(layer),
      weights_(weights),
      shape_{.num_heads = static_cast<int>(config.index_n_heads),
             .head_dim = static_cast<int>(config.index_head_dim),
             .rope = static_cast<int>(config.qk_rope_head_dim),
             .rope_interleave = config.indexer_rope_interleave},
      fp8_shape_(shape_) {
  // DeepSeek's own code rotates before it quantizes; for GLM no published code does
  // (docs/spec/model.md, 11.3).
  fp8_shape_.hadamard = config.model_type == ModelType::kDeepseekV32 &&
                        std::has_single_bit(static_cast<uint64_t>(config.index_head_dim));
  fp8_shape_.power_of_two_scales = config.power_of_two_scales();
}

const IndexerShape& Indexer::shape_for(const PagedKeys& keys) const {
  return keys.dtype == DType::kF8E4M3 ? fp8_shape_ : shape_;
}

Indexer::Queries Indexer::allocate_queries(Step& step) const {
  Arena& arena = *step.context.arena;
  const int64_t num_tokens = step.batch.num_tokens;
  const DType dtype = step.caches[static_cast<size_t>(layer_)].keys.dtype;
  return {.q = arena.operand(dtype, num_tokens, int64_t{shape_.num_heads} * shape_.head_dim),
          .head_weights = arena.matrix<float>(num_tokens, shape_.num_heads)};
}

IndexerPrepare Indexer::prepare(Step& step, const Operand& x, const Operand& q_latent,
                                const Queries& queries) const {
  const PagedKeys& keys = step.caches[static_cast<size_t>(layer_)].keys;
  return {x,         q_latent,   weights_,  shape_for(keys),      step.projection,
          step.rope, step.batch, queries.q, queries.head_weights, keys};
}

void Indexer::select(Step& step, const Queries& queries) const {
  const ArenaScope scope(*step.context.arena);
  const PagedKeys& keys = step.caches[static_cast<size_t>(layer_)].keys;
  run(step.context,
      IndexerSelect{queries.q, queries.head_weights, keys, shape_for(keys), step.batch, step.selected});

  if (step.observer != nullptr && step.observer->wants_scores()) {
    const auto scores = step.context.arena->matrix<float>(step.batch.num_tokens, step.batch.max_context);
    run(step.context,
        IndexerScores{queries.q, queries.head_weights, keys, shape_for(keys), step.batch, scores});
    step.observer->scores(layer_, scores);
  }
  if (step.selection != nullptr) step.selection->select(layer_, step.batch, step.context, step.selected);
  if (step.observer != nullptr) step.observer->selected(layer_, step.selected);
}

DecoderLayer::DecoderLayer(const Config& config, int layer, const LayerWeights& weights,
                           AttentionKind attention, bool moe)
    : layer_(layer),
      weights_(weights),
      attention_(attention),
      moe_(moe),
      eps_(static_cast<float>(config.rms_norm_eps)),
      softmax_scale_(static_cast<float>(config.softmax_scale())),
      mla_shape_{.num_heads = static_cast<int>(config.num_attention_heads),
                 .kv_lora = static_cast<int>(config.kv_lora_rank),
                 .nope = static_cast<int>(config.qk_nope_head_dim),
                 .rope = static_cast<int>(config.qk_rope_head_dim),
                 .value = static_cast<int>(config.v_head_dim),
                 .rope_interleave = config.rope_interleave},
      moe_shape_{.experts_per_token = static_cast<int>(config.num_experts_per_tok),
                 .num_groups = static_cast<int>(config.n_group),
                 .groups_kept = static_cast<int>(config.topk_group),
                 .normalize = config.norm_topk_prob,
                 .scaling = static_cast<float>(config.routed_scaling_factor)},
      moe_weights_{.router = weights.router,
                   .correction_bias = weights.correction_bias,
                   .experts = weights.experts,
                   .shared = weights.shared},
      indexer_(config, layer, weights.indexer) {}

void DecoderLayer::forward(Step& step, Residual& residual) const {
  const ArenaScope scope(*step.context.arena);
  const Operand x = add_norm(step, residual, weights_.input_norm, eps_);
  const Attended attended = prepare_attention(step, x);
  if (attention_ == AttentionKind::kOwnIndexer) indexer_.select(step, attended.indexer);
  const Operand u = attend(step, attended);
  run(step.context, MlaOutput{u, weights_.mla, mla_shape_, residual.delta});
  residual.pending = true;
  feed_forward(step, add_norm(step, residual, weights_.post_attention_norm, eps_), residual);
  if (step.observer != nullptr) step.observer->hidden(layer_, residual);
}

void DecoderLayer::fill_caches(Step& step, Residual& residual) const {
  const ArenaScope scope(*step.context.arena);
  (void)prepare_attention(step, add_norm(step, residual, weights_.input_norm, eps_));
}

DecoderLayer::Attended DecoderLayer::prepare_attention(Step& step, const Operand& x) const {
  const MlaShape& s = mla_shape_;
  Arena& arena = *step.context.arena;
  Attended attended{
      .q = arena.operand(step.operand_dtype, x.rows, int64_t{s.num_heads} * (s.kv_lora + s.rope)),
      .q_latent = weights_.mla.q_a.present()
                      ? arena.operand(step.operand_dtype, x.rows, weights_.mla.q_a.rows)
                      : Operand{.dtype = step.operand_dtype}};
  const MlaPrepare mla{
      x,          weights_.mla,      s,          step.rope,
      step.batch, attended.q_latent, attended.q, step.caches[static_cast<size_t>(layer_)].latents};
  if (attention_ == AttentionKind::kOwnIndexer) {
    attended.indexer = indexer_.allocate_queries(step);
    const IndexerPrepare indexer = indexer_.prepare(step, x, attended.q_latent, attended.indexer);
    run(step.context, AttentionPrepare{mla, &indexer});
  } else {
    run(step.context, AttentionPrepare{mla, nullptr});
  }
  return attended;
}

Operand DecoderLayer::attend(Step& step, const Attended& attended) const {
  const Operand& q = attended.q;
  const Operand u = step.context.arena->operand(step.operand_dtype, q.rows,
                                                int64_t{mla_shape_.num_heads} * mla_shape_.kv_lora);
  const PagedLatents& latents = step.caches[static_cast<size_t>(layer_)].latents;
  const bool everything =
      attention_ == AttentionKind::kDense || (step.selection != nullptr && step.selection->everything());
  if (everything) {
    run(step.context, DenseMla{q, latents, step.batch, mla_shape_, softmax_scale_, u});
  } else {
    run(step.context, SparseMla{q, latents, step.batch, step.selected, mla_shape_, softmax_scale_, u});
  }
  return u;
}

void DecoderLayer::feed_forward(Step& step, const Operand& x, Residual& residual) const {
  if (!moe_) {
    run(step.context, Ffn{x, weights_.ffn, residual.delta});
  } else {
    Matrix<int32_t> chosen_experts;
    Matrix<float> expert_weights;
    const bool observed = step.observer != nullptr && step.observer->wants_router();
    if (observed) {
      chosen_experts = step.context.arena->matrix<int32_t>(x.rows, moe_shape_.experts_per_token);
      expert_weights = step.context.arena->matrix<float>(x.rows, moe_shape_.experts_per_token);
    }
    run(step.context,
        Moe{x, moe_weights_, moe_shape_, step.batch, residual.delta, chosen_experts, expert_weights});
    if (observed) step.observer->router(layer_, chosen_experts, expert_weights);
  }
  residual.pending = true;
}

}  // namespace fulgur
