#pragma once

#include <cstdint>
#include <span>

#include "ops/sample.h"

namespace fulgur::cpu {

/// Draws from weights[id] = e^((logit[id] - largest logit) / temperature), where the largest is 1:
///
///   1. top-k: the k ids of largest weight, of equal ones the lower id;
///   2. top-p: in that order, the shortest run whose weights sum to at least top_p times the sum of what step
///   1 left;
///   3. min-p: of those, the ids with a weight of at least min_p;
///   4. the first id, ascending, at which the sum of the kept weights up to it exceeds uniform_at(seed,
///   position) times their
///      total.
///
/// All sums are double: totals and step 4 in ascending order of id, step 2 in its own order. `order` is
/// scratch, as long as the weights; ids that are not kept have weight 0 afterwards.
int32_t draw(std::span<float> weights, const SamplingParams& params, int32_t position,
             std::span<int32_t> order);

}  // namespace fulgur::cpu
