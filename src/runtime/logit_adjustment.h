#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

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
  LogitAdjustment(const Sampling& sampling, std::span<const int32_t> prompt);

  /// Whether it changes anything.
  [[nodiscard]] bool active() const { return penalizes_ || !bias_.empty(); }
  /// A token of the text.
  void add(int32_t token);
  /// `drafts`: tokens of the text that may not stay there.
  void apply(std::span<float> logits, std::span<const int32_t> drafts = {}) const;

 private:
  [[nodiscard]] float penalized(float logit, int64_t count) const;

  float repetition_;
  float frequency_;
  float presence_;
  bool penalizes_;
  std::unordered_map<int32_t, float> bias_;
  std::unordered_map<int32_t, int> counts_;  // in the text; a token of the prompt alone has 0
};

}  // namespace fulgur
