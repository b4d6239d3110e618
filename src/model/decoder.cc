#include "model/decoder.h"

#include <algorithm>

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

Operand Decoder::forward(Step& step) const {
  Arena& arena = *step.context.arena;
  const int64_t num_tokens = step.batch.num_tokens;
  Residual residual{.sum = arena.matrix<float>(num_tokens, config_.hidden_size),
                    .delta = arena.matrix<float>(num_tokens, config_.hidden_size)};
  if (config_.sparse()) {
    // No row has more candidates than max_context, whatever index_topk allows.
    const int64_t width =
        step.selection == nullptr ? config_.index_topk : step.selection->width(config_.index_topk);
    step.selected = arena.matrix<int32_t>(num_tokens, std::min<int64_t>(width, step.batch.max_context));
  }

  run(step.context, Embed{step.batch, weights_.embed, residual.sum});
  for (const DecoderLayer& layer : layers_) layer.forward(step, residual);
  return add_norm(step, residual, weights_.norm, static_cast<float>(config_.rms_norm_eps));
}

void Decoder::lm_head(Step& step, const Operand& hidden, const int32_t* rows, Matrix<float> logits) const {
  run(step.context, LmHead{hidden, rows, weights_.head, logits});
}

}  // namespace fulgur
