#pragma once

#include "base/matrix.h"
#include "base/weight.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

/// The weights of an MLA layer in the absorbed form (docs/spec/model.md, section 3). With q_lora_rank null,
/// q_a and q_a_norm are absent and q_b is W_q [h*(dn+dr), hidden].
struct MlaWeights {
  Weight q_a;        // [q, hidden]
  Weight q_a_norm;   // [1, q]
  Weight q_b;        // [h*(dn+dr), q]: head after head, dn unrotated rows and then dr rotated ones
  Weight kv_a;       // [r+dr, hidden]
  Weight kv_a_norm;  // [1, r]
  Weight uk;         // [h*r, dn]: UK transposed, head after head
  Weight uv;         // [h*dv, r]: UV, head after head
  Weight o;          // [hidden, h*dv]
};

struct MlaShape {
  int num_heads;         // h
  int kv_lora;           // r
  int nope;              // dn
  int rope;              // dr
  int value;             // dv
  bool rope_interleave;  // pairs (2j, 2j+1), else (j, j+dr/2); stored in the order of the projection
};

/// Absorbed queries and the cache entries of the step's tokens:
///
///   qr = RMS(x W_qa^T; 1e-6)    Q = qr W_qb^T    q[t,h] = [ UK_h^T qn ; rope(qp) ]
///   kv = x W_kva^T              entry = [ RMS(kv[:r]; 1e-6) ; rope(kv[r:]) ]    -> latents
///
/// qr, qn and q are operands: rounded once to the dtype of `q` (bf16 or f32). Entries are rounded once to the
/// form of the latents; e4m3: sigma = max |c| / 448 of each group, at least the smallest normal number, codes
/// e4m3(c / sigma). The softmax scale is not applied here.
struct MlaPrepare {
  Operand x;  // [num_tokens, hidden]
  const MlaWeights& weights;
  const MlaShape& shape;
  const RopeTable& rope;
  const TokenBatch& batch;
  Operand q_latent;      // out: qr [num_tokens, q], for the indexer; rows = 0 where q_lora_rank is null
  Operand q;             // out: [num_tokens, h*(r+dr)], x's dtype
  PagedLatents latents;  // out: the entries of the step's tokens
};
void run(Context&, const MlaPrepare&);

/// o[t,h] = UV_h u[t,h], then delta = o W_o^T: the layer's contribution to the residual. o is an operand,
/// rounded once to u's dtype.
struct MlaOutput {
  Operand u;  // [num_tokens, h*r]
  const MlaWeights& weights;
  const MlaShape& shape;
  Matrix<float> delta;  // out: [num_tokens, hidden]
};
void run(Context&, const MlaOutput&);

}  // namespace fulgur
