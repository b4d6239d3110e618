#include "runtime/logit_adjustment.h"

#include <algorithm>

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

float LogitAdjustment::penalized(float logit, int64_t count) const {
  logit = logit > 0 ? logit / repetition_ : logit * repetition_;
  return logit - (frequency_ * static_cast<float>(count) + (count > 0 ? presence_ : 0));
}

void LogitAdjustment::apply(std::span<float> logits, std::span<const int32_t> drafts) const {
  for (const auto& [token, bias] : bias_) logits[static_cast<size_t>(token)] += bias;
  if (!penalizes_) return;
  const auto penalize = [&](int32_t token, int64_t count) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = penalized(logit, count);
  };
  for (const auto& [token, count] : counts_) penalize(token, count + std::ranges::count(drafts, token));
  for (size_t i = 0; i < drafts.size(); ++i) {
    if (counts_.contains(drafts[i]) || std::ranges::count(drafts.first(i), drafts[i]) > 0) continue;
    penalize(drafts[i], std::ranges::count(drafts, drafts[i]));
  }
}

}  // namespace fulgur
