#pragma once

#include <vector>

#include "model/config.h"
#include "model/layer.h"
#include "model/step.h"
#include "model/weights.h"

namespace fulgur {

/// The main model: embedding, layers, final norm (docs/spec/model.md, section 1). Refers to `config` and
/// `weights`.
class Decoder {
 public:
  Decoder(const Config& config, const ModelWeights& weights);

  /// F = RMS(H; norm) of every token of the batch: out [num_tokens, hidden], in the step's operand dtype.
  void forward(Step& step, const Operand& hidden) const;
  /// Logits of the rows of F that are wanted: out [num_rows, vocab].
  void lm_head(Step& step, const Operand& hidden, const int32_t* rows, Matrix<float> logits) const;

 private:
  const Config& config_;
  const ModelWeights& weights_;
  std::vector<DecoderLayer> layers_;
};

}  // namespace fulgur
