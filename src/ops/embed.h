#pragma once

#include "base/matrix.h"
#include "base/weight.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

/// H0[t] = Emb[token_t], widened to f32 (docs/spec/model.md, section 1). Token ids are valid rows of the
/// table.
struct Embed {
  const TokenBatch& batch;
  Weight table;          // [vocab, hidden]
  Matrix<float> hidden;  // out: [num_tokens, hidden]
};
void run(Context&, const Embed&);

}  // namespace fulgur
