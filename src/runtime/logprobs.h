#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fulgur/engine.h"

namespace fulgur {

/// ln p under softmax(logits), in double: of one token, and of the `count` likeliest (equal ones by id).
double logprob_of(std::span<const float> logits, int32_t token);
std::vector<TokenLogprob> likeliest(std::span<const float> logits, int count);

}  // namespace fulgur
