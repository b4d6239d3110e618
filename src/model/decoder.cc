#include "model/decoder.h"

#include "ops/embed.h"
#include "ops/linear.h"

namespace fulgur {

Decoder::Decoder(const Config& config, const ModelWeights& weights) : config_(config), weights_(weights) {
  layers_.reserve(weights.layers.size());
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    AttentionKind attention = AttentionKind::kDense;
    if (config.sparse()) {
      attention = config.full_indexer[i] ? AttentionKind::kOwnIndexer : AttentionKind::kSharedIndexer;
    }
    layers_.emplace_back(config, static_cast<int>(i), weights.layers[i], attention, config.moe_layer[i]);
  }
}

void Decoder::forward(Step& step, const Operand& hidden) const {
  Arena& arena = *step.context.arena;
  const ArenaScope scope(arena);
  const int64_t num_tokens = step.batch.num_tokens;
  Residual residual{.sum = arena.matrix<float>(num_tokens, config_.hidden_size),
                    .delta = arena.matrix<float>(num_tokens, config_.hidden_size)};
  allocate_selection(step, config_);

  run(step.context, Embed{step.batch, weights_.embed, residual.sum});
  for (const DecoderLayer& layer : layers_) layer.forward(step, residual);
  add_norm(step, residual, weights_.norm, static_cast<float>(config_.rms_norm_eps), hidden);
}

void Decoder::lm_head(Step& step, const Operand& hidden, const int32_t* rows, Matrix<float> logits) const {
  run(step.context, LmHead{hidden, rows, weights_.head, logits});
}

}  // namespace fulgur
