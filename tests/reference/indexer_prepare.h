#pragma once

#include <bit>
#include <cmath>
#include <span>
#include <vector>

#include "ops/indexer_prepare.h"
#include "reference/linear.h"
#include "reference/mla_prepare.h"
#include "reference/rope.h"
#include "reference/table.h"

namespace fulgur::reference {

/// LN(x) = (x - mean) / sqrt(var + 1e-6) * g + b, population variance.
inline Table layer_norm(const Table& x, Row gain, Row bias) {
  Table out(x.rows, x.cols);
  const Real count(static_cast<double>(x.cols));
  for (int64_t t = 0; t < x.rows; ++t) {
    const Real mean = sum(x.row(t)) / count;
    for (int64_t i = 0; i < x.cols; ++i) out.at(t, i) = x.at(t, i) - mean;
    const Real variance = dot(out.row(t), out.row(t)) / count;
    const Real root = square_root(variance + Real(kLatentEps));
    for (size_t i = 0; i < gain.size(); ++i) out.row(t)[i] = out.row(t)[i] / root * gain[i] + bias[i];
  }
  return out;
}

/// x Hd / sqrt(size), Hd the Walsh-Hadamard matrix in natural order: entry (i, j) is -1 where i & j has an
/// odd number of ones.
inline void hadamard(std::span<Real> x) {
  const std::vector<Real> before(x.begin(), x.end());
  const Real root = square_root(Real(static_cast<double>(x.size())));
  std::vector<Real> signs(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < x.size(); ++j) signs[j] = std::popcount(i & j) % 2 == 0 ? 1 : -1;
    x[i] = dot(before, signs) / root;
  }
}

/// FP8 keys: q and the keys before they are rounded, the head weights without the queries' scales
/// (reference/fp8_group.h says what a kernel may make of them).
struct IndexerPrepared {
  Table q;             // [T, nI*dI]
  Table head_weights;  // [T, nI]
  Table keys;          // [T, dI], what goes to the cache
};

/// With `q_latent` in place of the operand's.
inline IndexerPrepared indexer_prepare(const IndexerPrepare& op, const Table& q_latent) {
  const IndexerShape& shape = op.shape;
  const Table cos = values_of(op.rope.cos);
  const Table sin = values_of(op.rope.sin);
  const auto rope_width = static_cast<size_t>(shape.rope);
  const auto head_dim = static_cast<size_t>(shape.head_dim);

  const Table kw = linear(values_of(op.x), values_of(op.weights.wk_weights_proj));
  Table k0(kw.rows, shape.head_dim);
  IndexerPrepared result;
  result.head_weights = Table(kw.rows, shape.num_heads);
  const Real scale = rounded(Real(1 / std::sqrt(double{1} * shape.num_heads * shape.head_dim)), 3);
  for (int64_t t = 0; t < kw.rows; ++t) {
    std::copy_n(kw.row(t).begin(), shape.head_dim, k0.row(t).begin());
    for (int64_t h = 0; h < shape.num_heads; ++h) {
      result.head_weights.at(t, h) = kw.at(t, shape.head_dim + h) * scale;
    }
  }

  result.keys =
      layer_norm(k0, values_of(op.weights.k_norm_gain).row(0), values_of(op.weights.k_norm_bias).row(0));
  result.q = linear(q_latent, values_of(op.weights.wq_b));
  for (int64_t t = 0; t < kw.rows; ++t) {
    const int32_t position = op.batch.position[t];
    rotate(result.keys.row(t).first(rope_width), cos.row(position), sin.row(position), shape.rope_interleave);
    if (shape.hadamard) hadamard(result.keys.row(t));
    for (size_t h = 0; h < static_cast<size_t>(shape.num_heads); ++h) {
      rotate(result.q.row(t).subspan(h * head_dim, rope_width), cos.row(position), sin.row(position),
             shape.rope_interleave);
      if (shape.hadamard) hadamard(result.q.row(t).subspan(h * head_dim, head_dim));
    }
  }
  result.q = as_operand(result.q, op.q.dtype);
  result.keys = as_operand(result.keys, op.keys.dtype);
  return result;
}

inline IndexerPrepared indexer_prepare(const IndexerPrepare& op) {
  return indexer_prepare(op, values_of(op.q_latent));
}

}  // namespace fulgur::reference
