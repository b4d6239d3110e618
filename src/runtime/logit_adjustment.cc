#include "runtime/logit_adjustment.h"

#include <algorithm>

namespace fulgur {

LogitAdjustment::LogitAdjustment(Sampling sampling, std::span<const int32_t> prompt)
    : repetition_(sampling.repetition_penalty),
      frequency_(sampling.frequency_penalty),
      presence_(sampling.presence_penalty),
      penalizes_(repetition_ != 1 || frequency_ != 0 || presence_ != 0),
      bias_(std::move(sampling.logit_bias)) {
  if (!penalizes_) return;
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  std::ranges::sort(tokens);
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  counts_.reserve(tokens.size());
  for (const int32_t token : tokens) counts_.push_back({token, 0});
}

std::vector<LogitAdjustment::Count>::const_iterator LogitAdjustment::place_of(int32_t token) const {
  return std::ranges::lower_bound(counts_, token, {}, &Count::token);
}

void LogitAdjustment::add(int32_t token) {
  if (!penalizes_) return;
  const auto at = counts_.begin() + (place_of(token) - counts_.cbegin());
  if (at != counts_.end() && at->token == token) {
    ++at->count;
  } else {
    counts_.insert(at, {token, 1});
  }
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
    const auto known = place_of(drafts[i]);
    if (known != counts_.end() && known->token == drafts[i]) continue;
    if (std::ranges::count(drafts.first(i), drafts[i]) > 0) continue;
    penalize(drafts[i], std::ranges::count(drafts, drafts[i]));
  }
}

}  // namespace fulgur
