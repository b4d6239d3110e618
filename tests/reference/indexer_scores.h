#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/indexer_select.h"
#include "reference/table.h"

namespace fulgur::reference {

/// The sum of products of e4m3 codes, which tensor cores of Hopper may keep to about 14 bits: they align 32
/// products and the sum so far to the largest of these and cut each off 13 bits below its first.
inline Real dot_of_codes(Row a, Row b) {
  constexpr size_t kAtOnce = 32;
  constexpr double kCut = 0x1p-13;
  Real result = dot(a, b);
  double sum = 0;
  for (size_t begin = 0; begin < a.size(); begin += kAtOnce) {
    double largest = std::abs(sum);
    const size_t end = std::min(begin + kAtOnce, a.size());
    for (size_t i = begin; i < end; ++i) {
      const double product = a[i].value * b[i].value;
      largest = std::max(largest, std::abs(product));
      sum += product;
    }
    result.error += static_cast<double>(end - begin + 1) * kCut * std::max(largest, std::abs(sum));
  }
  return result;
}

/// score = sum_h w_h * max(0, q_h . k). `codes`: q and k are e4m3.
inline Real index_score(Row q, Row head_weights, Row key, bool codes = false) {
  std::vector<Real> cut(head_weights.size());
  for (size_t h = 0; h < cut.size(); ++h) {
    const Row head = q.subspan(h * key.size(), key.size());
    cut[h] = relu(codes ? dot_of_codes(head, key) : dot(head, key));
  }
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
      const bool codes = op.keys.dtype == DType::kF8E4M3;
      score = index_score(q.row(t), head_weights.row(t), cached_key(op.keys, op.batch, t, s), codes);
      if (codes) score = score * cached_scale(op.keys, op.batch, t, s);
    }
  }
  return scores;
}

}  // namespace fulgur::reference
