#pragma once

#include "base/matrix.h"
#include "base/weight.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

/// How the indexer's two small projections run. All three read the rows of one matrix and give the same bits
/// on the CPU.
enum class IndexerProjection {
  kSeparate,    // wk x, then weights_proj x
  kOverlapped,  // both at once: one parallel region here, two streams on a GPU
  kFused,       // one product [wk; weights_proj] x
};

struct IndexerWeights {
  Weight wk_weights_proj;  // [dI+nI, hidden]: W_k, then W_w
  Weight k_norm_gain;      // [1, dI]
  Weight k_norm_bias;      // [1, dI]
  Weight wq_b;             // [nI*dI, q]
};

struct IndexerShape {
  int num_heads;         // nI
  int head_dim;          // dI
  int rope;              // dr: the first dr components are rotated
  bool rope_interleave;  // pairs (2j, 2j+1), else (j, j+dr/2)
};

/// The indexer's queries, head weights and keys (docs/spec/model.md, section 4):
///
///   kw = x [W_k; W_w]^T     k = rope(LN(kw[:dI]))  -> keys     head_weights = kw[dI:] * nI^-1/2 * dI^-1/2
///   q  = rope(qr W_iq^T)
///
/// LN has eps 1e-6, population variance, f32. kw and the head weights stay f32; q and the keys are rounded
/// once to the dtype of the keys.
struct IndexerPrepare {
  Operand x;         // [num_tokens, hidden]
  Operand q_latent;  // qr [num_tokens, q]
  const IndexerWeights& weights;
  const IndexerShape& shape;
  IndexerProjection projection;
  const RopeTable& rope;
  const TokenBatch& batch;
  Operand q;                   // out: [num_tokens, nI*dI], in the form of the keys
  Matrix<float> head_weights;  // out: [num_tokens, nI], both scale factors folded in
  PagedKeys keys;              // out: the keys of the step's tokens
};
void run(Context&, const IndexerPrepare&);

}  // namespace fulgur
