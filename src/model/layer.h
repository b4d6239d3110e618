#pragma once

#include "model/config.h"
#include "model/step.h"
#include "model/weights.h"
#include "ops/indexer_prepare.h"
#include "ops/mla_prepare.h"
#include "ops/moe.h"

namespace fulgur {

/// DSA's lightning indexer in one layer (docs/spec/model.md, sections 4 and 5).
class Indexer {
 public:
  Indexer(const Config& config, int layer, const IndexerWeights& weights);

  /// What is scored against the cached keys.
  struct Queries {
    Operand q;                   // [num_tokens, nI*dI], in the form of the keys
    Matrix<float> head_weights;  // [num_tokens, nI]
  };
  /// The op that makes `queries` and caches the step's keys.
  [[nodiscard]] IndexerPrepare prepare(Step& step, const Operand& x, const Operand& q_latent,
                                       const Queries& queries) const;
  [[nodiscard]] Queries allocate_queries(Step& step) const;
  /// Leaves each token's selected positions in step.selected.
  void select(Step& step, const Queries& queries) const;

 private:
  [[nodiscard]] const IndexerShape& shape_for(const PagedKeys& keys) const;

  int layer_;
  const IndexerWeights& weights_;
  IndexerShape shape_;
  IndexerShape fp8_shape_;  // of FP8 keys
};

/// Who chooses what a layer attends to.
enum class AttentionKind {
  kDense,          // nobody: all positions (models without an indexer)
  kOwnIndexer,     // its own indexer
  kSharedIndexer,  // the closest layer before it that owns one
};

/// One decoder layer (docs/spec/model.md, sections 1 and 3-7). Weights are referred to, not copied.
class DecoderLayer {
 public:
  DecoderLayer(const Config& config, int layer, const LayerWeights& weights, AttentionKind attention,
               bool moe);

  void forward(Step& step, Residual& residual) const;
  /// Of it the part that fills the caches. What is left in the residual stream is of no use.
  void fill_caches(Step& step, Residual& residual) const;

 private:
  struct Attended {
    Operand q;                 // absorbed, [num_tokens, h*(r+dr)]
    Operand q_latent;          // [num_tokens, q]
    Indexer::Queries indexer;  // of layers that own one
  };
  Attended prepare_attention(Step& step, const Operand& x) const;
  Operand attend(Step& step, const Attended& attended) const;
  void feed_forward(Step& step, const Operand& x, Residual& residual) const;

  int layer_;
  const LayerWeights& weights_;
  AttentionKind attention_;
  bool moe_;
  float eps_;
  float softmax_scale_;
  MlaShape mla_shape_;
  MoeShape moe_shape_;
  MoeWeights moe_weights_;
  Indexer indexer_;
};

/// out = RMS(residual), with the pending delta folded in first.
void add_norm(Step& step, Residual& residual, const Weight& gain, float eps, const Operand& out);
/// The same in the step's arena.
Operand add_norm(Step& step, Residual& residual, const Weight& gain, float eps);

/// Room for step.selected in the step's arena, if the model has an indexer.
void allocate_selection(Step& step, const Config& config);

}  // namespace fulgur
