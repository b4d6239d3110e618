#include "model/mtp.h"

#include "ops/linear.h"
#include "ops/mtp_input.h"

namespace fulgur {

Mtp::Mtp(const Config& config, const ModelWeights& weights)
    : config_(config),
      weights_(weights.mtp),
      layer_(config, static_cast<int>(config.num_hidden_layers), weights.mtp.layer,
             config.sparse() ? AttentionKind::kOwnIndexer : AttentionKind::kDense, /*moe=*/true) {}

/// [e ; f] W_eh^T of each pair.
Residual Mtp::combine(Step& step, const Operand& hidden, const int32_t* rows) const {
  Arena& arena = *step.context.arena;
  const int64_t num_tokens = step.batch.num_tokens;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const Operand pair = arena.operand(step.operand_dtype, num_tokens, 2 * config_.hidden_size);
  Residual residual{.sum = arena.matrix<float>(num_tokens, config_.hidden_size),
                    .delta = arena.matrix<float>(num_tokens, config_.hidden_size)};
  const Operand sum{residual.sum.data, DType::kF32, num_tokens, residual.sum.cols, residual.sum.stride};
  run(step.context,
      MtpInput{step.batch, weights_.embed, weights_.enorm, hidden, rows, weights_.hnorm, eps, pair});
  run(step.context, Linear{pair, weights_.eh_proj, sum});
  return residual;
}

Operand Mtp::forward(Step& step, const Operand& hidden, const int32_t* rows) const {
  allocate_selection(step, config_);
  Residual residual = combine(step, hidden, rows);
  layer_.forward(step, residual);
  return add_norm(step, residual, weights_.norm, static_cast<float>(config_.rms_norm_eps));
}

void Mtp::fill_caches(Step& step, const Operand& hidden, const int32_t* rows) const {
  const ArenaScope scope(*step.context.arena);
  Residual residual = combine(step, hidden, rows);
  layer_.fill_caches(step, residual);
}

void Mtp::lm_head(Step& step, const Operand& out, const int32_t* rows, Matrix<float> logits) const {
  run(step.context, LmHead{out, rows, weights_.head, logits});
}

}  // namespace fulgur
