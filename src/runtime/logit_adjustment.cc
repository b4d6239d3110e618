#include "runtime/logit_adjustment.h"

namespace fulgur {

LogitAdjustment::LogitAdjustment(const Sampling& sampling, std::span<const int32_t> prompt)
    : repetition_(sampling.repetition_penalty),
      frequency_(sampling.frequency_penalty),
      presence_(sampling.presence_penalty),
      penalizes_(repetition_ != 1 || frequency_ != 0 || presence_ != 0) {
  for (const auto& [token, bias] : sampling.logit_bias) bias_[token] += bias;
  if (!penalizes_) return;
  for (const int32_t token : prompt) counts_.try_emplace(token, 0);
}

void LogitAdjustment::add(int32_t token) {
  if (penalizes_) ++counts_[token];
}

void LogitAdjustment::apply(std::span<float> logits) const {
  for (const auto& [token, count] : counts_) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / repetition_ : logit * repetition_;
    logit -= frequency_ * static_cast<float>(count) + (count > 0 ? presence_ : 0);
  }
  for (const auto& [token, bias] : bias_) logits[static_cast<size_t>(token)] += bias;
}

}  // namespace fulgur
