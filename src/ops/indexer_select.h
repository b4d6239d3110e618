#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "ops/indexer_prepare.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

/// DSA's selection: for each query token, the index_topk cached tokens that attention may read.
///
///   score[t, s] = sum_h head_weights[t, h] * max(0, q[t, h] . k[s])    first_position <= s <= position[t]
///
/// (FP8: q and k are codes, and the sum is multiplied by the key's sigma_k. Tensor cores keep about 14 bits
/// of a sum of FP8 products.) Higher score first, then the lower position, exactly, of the scores this kernel
/// computes (-0 equals 0): the set does not depend on batch or threads. A row with at most index_topk
/// candidates takes them all, unscored. A NaN score gives a row of -1 and the sequence's fault bit. Scratch
/// for scores and their search is at most Context::index_scratch_bytes, whatever the context, and changes no
/// bit.
///
/// A back end that overlaps ops may read before the op queued just before this one has ended: positions,
/// sequences, the page table, and keys of positions before the batch's first of their sequence. So that op
/// may write queries, head weights and keys of the batch's tokens, as indexer_prepare does; the rest is of
/// ops queued before it. (DeepSeek-V3.2 report, section 2.1; docs/spec/model.md, sections 4 and 5.)
struct IndexerSelect {
  Operand q;                         // [num_tokens, nI*dI], in the form of the keys
  Matrix<const float> head_weights;  // [num_tokens, nI]
  PagedKeys keys;
  const IndexerShape& shape;
  const TokenBatch& batch;
  Matrix<int32_t> selected;    // out: [num_tokens, index_topk] positions, ascending, -1 after the last
  Matrix<int32_t> slots = {};  // out, if wanted: the same as slots of the caches, page * 64 + position % 64
};
void run(Context&, const IndexerSelect&);

/// The scores themselves, bit for bit those IndexerSelect ranks, for dumps and tests: 0 where s <
/// first_position or s > position[t].
struct IndexerScores {
  Operand q;
  Matrix<const float> head_weights;
  PagedKeys keys;
  const IndexerShape& shape;
  const TokenBatch& batch;
  Matrix<float> scores;  // out: [num_tokens, at least max_context]
};
void run(Context&, const IndexerScores&);

}  // namespace fulgur
