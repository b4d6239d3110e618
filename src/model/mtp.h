#pragma once

#include "model/config.h"
#include "model/layer.h"
#include "model/step.h"
#include "model/weights.h"

namespace fulgur {

/// The module for multi-token prediction: from F of a position and the token after it, what comes after that
/// token (docs/spec/model.md, section 9). Refers to `config` and `weights`, which hold the module.
///
/// In its batch the token at position p >= 1 stands for the pair (F of p - 1, token p) and is cached at p, so
/// no entry depends on a later token and cache pages are shared as the main model's. There is no pair at
/// position 0: attention begins at kFirstPosition, which the batch says.
class Mtp {
 public:
  static constexpr int kFirstPosition = 1;

  Mtp(const Config& config, const ModelWeights& weights);

  /// RMS(x1; shared_head.norm) of every token of the batch, [num_tokens, hidden], in the step's arena; it
  /// stands for F where a further draft is made from a draft. `hidden` holds F, [any, hidden], rows[t] names
  /// the row that goes with token t: back-end memory, [num_tokens]. The layer always selects for itself.
  Operand forward(Step& step, const Operand& hidden, const int32_t* rows) const;
  /// Of it the part that fills the caches, for tokens after which nothing is guessed.
  void fill_caches(Step& step, const Operand& hidden, const int32_t* rows) const;
  /// Logits of the rows that are wanted of what forward returned: out [num_rows, vocab].
  void lm_head(Step& step, const Operand& out, const int32_t* rows, Matrix<float> logits) const;

 private:
  Residual combine(Step& step, const Operand& hidden, const int32_t* rows) const;

  const Config& config_;
  const MtpWeights& weights_;
  DecoderLayer layer_;
};

}  // namespace fulgur
