#pragma once

#include <cstdint>

#include "base/matrix.h"

namespace fulgur {

struct Context;

/// How one token is drawn from its logits.
struct SamplingParams {
  float temperature = 0;  // 0: greedy, the rest but the penalties is ignored
  int top_k = 0;          // keep the k likeliest; 0: all
  float top_p = 1;        // then the smallest set of the likeliest that holds this mass
  float min_p = 0;        // then those at least min_p times as likely as the likeliest
  uint64_t seed = 0;
};

/// token[i] is drawn from logits row i by its params, with the counter-based generator's number for (seed,
/// position[i]): the draw depends on nothing else. Greedy takes the largest logit; of equal ones the lowest
/// id. Order: temperature, top-k, top-p, min-p. A NaN, or an infinite largest logit (+ or -), gives -1.
struct Sample {
  Matrix<const float> logits;    // [rows, vocab]
  const SamplingParams* params;  // [rows]
  const int32_t* position;       // [rows] position that the drawn token will have
  int32_t* token;                // out: [rows]
};
void run(Context&, const Sample&);

}  // namespace fulgur
