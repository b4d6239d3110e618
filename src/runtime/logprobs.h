#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fulgur/engine.h"

namespace fulgur {

/// ln p of a token under softmax(logits), in double. Appends those of the likeliest ones, in descending
/// order, equal ones by id.
double logprobs_of(std::span<const float> logits, int32_t token, int num_likeliest,
                   std::vector<TokenLogprob>& likeliest);

}  // namespace fulgur
