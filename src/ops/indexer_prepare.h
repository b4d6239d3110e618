#pragma once

#include "base/matrix.h"
#include "base/weight.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

/// How the indexer's two small projections run. All three read the rows of one matrix and give the same bits
/// on the CPU. On a GPU the products of bf16 are cuBLASLt's, whose bits may depend on the number of rows;
/// only a kernel of our own that takes kFused promises that they don't.
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
  // Of FP8 keys:
  bool hadamard = false;            // q and k times Hd / sqrt(dI), after rope; dI is a power of two
  bool power_of_two_scales = true;  // ue8m0, rounded up; else any f32
};

/// The indexer's queries, head weights and keys (docs/spec/model.md, section 4):
///
///   kw = x [W_k; W_w]^T     k = rope(LN(kw[:dI]))  -> keys     head_weights = kw[dI:] * nI^-1/2 * dI^-1/2
///   q  = rope(qr W_iq^T)
///
/// LN has eps 1e-6, population variance, f32. kw and the head weights stay f32; q and the keys are rounded
/// once to the dtype of the keys. FP8: after rope (and Hadamard) each key and each head of q has a scale,
/// amax = max(|v|, 1e-4), sigma = amax / 448; q and the keys hold the codes e4m3(v / sigma), the cache
/// sigma_k, and sigma_q is multiplied into the head weight.
///
/// W_iq in FP8 blocks: a GPU's kernels for prompts (num_tokens above 128) round q_latent of all rows, too,
/// each group of 128 columns to e4m3 with a scale of its own as above, and tensor cores keep about 14 bits of
/// a group's sums.
///
/// A back end that overlaps ops may read before the op queued before this one has ended: the weights, the
/// rope table, positions, sequences and the page table. So that op may write x and q_latent; the rest was
/// there when it began.
struct IndexerPrepare {
  Operand x;         // [num_tokens, hidden]
  Operand q_latent;  // qr [num_tokens, q]
  const IndexerWeights& weights;
  const IndexerShape& shape;
  IndexerProjection projection;
  const RopeTable& rope;
  const TokenBatch& batch;
  Operand q;                   // out: [num_tokens, nI*dI], in the form of the keys
  Matrix<float> head_weights;  // out: [num_tokens, nI], both scale factors (and sigma_q) folded in
  PagedKeys keys;              // out: the keys of the step's tokens
};
void run(Context&, const IndexerPrepare&);

}  // namespace fulgur
