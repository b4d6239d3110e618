#pragma once

#include "ops/indexer_select.h"
#include "reference/table.h"

namespace fulgur::reference {

/// score = sum_h w_h * max(0, q_h . k).
inline Real index_score(Row q, Row head_weights, Row key) {
  std::vector<Real> cut(head_weights.size());
  for (size_t h = 0; h < cut.size(); ++h) cut[h] = relu(dot(q.subspan(h * key.size(), key.size()), key));
  return dot(head_weights, cut);
}

/// score[t, s], 0 where s < first_position or s > position[t]. [num_tokens, max_context]. Takes IndexerSelect
/// or IndexerScores.
template <typename Op>
Table indexer_scores(const Op& op) {
  const Table q = values_of(op.q);
  const Table head_weights = values_of(op.head_weights);
  Table scores(q.rows, op.batch.max_context);
  for (int64_t t = 0; t < q.rows; ++t) {
    for (int64_t s = op.batch.first_position; s <= op.batch.position[t]; ++s) {
      Real& score = scores.at(t, s);
      score = index_score(q.row(t), head_weights.row(t), cached_key(op.keys, op.batch, t, s));
      if (op.keys.dtype == DType::kF8E4M3) score = score * cached_scale(op.keys, op.batch, t, s);
    }
  }
  return scores;
}

}  // namespace fulgur::reference
