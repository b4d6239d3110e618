#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "fulgur/engine.h"

namespace fulgur {

/// What a request's penalties and biases do to its logits before a token is drawn. `text` is what was
/// generated.
///
///   b  = l + bias
///   l' = (b > 0 ? b / r : b * r) - frequency * count - presence * [count > 0]
///
/// r is the repetition penalty for tokens of prompt and text, 1 for others; count is how often a token is in
/// the text.
class LogitAdjustment {
 public:
  LogitAdjustment(Sampling sampling, std::span<const int32_t> prompt);

  /// Whether it changes anything.
  [[nodiscard]] bool active() const { return penalizes_ || !bias_.empty(); }
  /// A token of the text.
  void add(int32_t token);
  /// `drafts`: tokens of the text that may not stay there.
  void apply(std::span<float> logits, std::span<const int32_t> drafts = {}) const;

 private:
  struct Count {
    int32_t token;
    int32_t count;  // in the text; of a token of the prompt alone 0
  };
  [[nodiscard]] std::vector<Count>::const_iterator place_of(int32_t token) const;
  [[nodiscard]] float penalized(float logit, int64_t count) const;

  float repetition_;
  float frequency_;
  float presence_;
  bool penalizes_;
  std::vector<std::pair<int32_t, float>> bias_;
  std::vector<Count> counts_;  // by token
};

}  // namespace fulgur
