#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "base/weight.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

/// What the MTP module projects onto its layer's input (docs/spec/model.md, section 9): for the token at
/// position p of a sequence, with F of position p - 1,
///
///   pair[t] = [ RMS(Emb[token_t]; enorm, eps) ; RMS(F[rows[t]]; hnorm, eps) ]
///
/// Sums in f32, each row alone; `pair` is rounded once to its dtype.
struct MtpInput {
  const TokenBatch& batch;
  Weight table;         // [vocab, hidden]
  Weight enorm;         // [1, hidden]
  Operand hidden;       // F: [any, hidden]
  const int32_t* rows;  // [num_tokens] which row of F, any order
  Weight hnorm;         // [1, hidden]
  float eps;
  Operand pair;  // out: [num_tokens, 2 * hidden]
};
void run(Context&, const MtpInput&);

}  // namespace fulgur
