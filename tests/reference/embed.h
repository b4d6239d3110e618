#pragma once

#include "ops/embed.h"
#include "reference/table.h"

namespace fulgur::reference {

/// H0[t] = Emb[token_t].
inline Table embed(std::span<const int32_t> tokens, const Table& table) {
  Table hidden(static_cast<int64_t>(tokens.size()), table.cols);
  for (int64_t t = 0; t < hidden.rows; ++t) {
    std::ranges::copy(table.row(tokens[static_cast<size_t>(t)]), hidden.row(t).begin());
  }
  return hidden;
}

inline Table embed(const Embed& op) {
  return embed({op.batch.token, static_cast<size_t>(op.batch.num_tokens)}, values_of(op.table));
}

}  // namespace fulgur::reference
