#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fulgur/engine.h"

namespace fulgur {

/// ln p under softmax(logits), in double.
struct Logprobs {
  double of_token = 0;
  std::vector<TokenLogprob> likeliest;  // in descending order, equal ones by id
};
Logprobs logprobs_of(std::span<const float> logits, int32_t token, int num_likeliest);

}  // namespace fulgur
