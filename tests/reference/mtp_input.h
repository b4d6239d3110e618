#pragma once

#include "ops/mtp_input.h"
#include "reference/embed.h"
#include "reference/rms_norm.h"
#include "reference/table.h"

namespace fulgur::reference {

/// [ RMS(Emb[token_t]; enorm) ; RMS(F[row_t]; hnorm) ].
inline Table mtp_input(const Table& embedded, Row enorm, const Table& hidden, Row hnorm, double eps) {
  const Table e = rms_norm(embedded, enorm, eps);
  const Table f = rms_norm(hidden, hnorm, eps);
  Table pair(e.rows, e.cols + f.cols);
  for (int64_t t = 0; t < e.rows; ++t) {
    std::ranges::copy(e.row(t), pair.row(t).begin());
    std::ranges::copy(f.row(t), pair.row(t).begin() + e.cols);
  }
  return pair;
}

inline Table mtp_input(const MtpInput& op) {
  const Table hidden = values_of(op.hidden);
  Table wanted(op.pair.rows, hidden.cols);
  for (int64_t t = 0; t < wanted.rows; ++t) std::ranges::copy(hidden.row(op.rows[t]), wanted.row(t).begin());
  const Table embedded =
      embed({op.batch.token, static_cast<size_t>(op.batch.num_tokens)}, values_of(op.table));
  return as_operand(
      mtp_input(embedded, values_of(op.enorm).row(0), wanted, values_of(op.hnorm).row(0), op.eps),
      op.pair.dtype);
}

}  // namespace fulgur::reference
