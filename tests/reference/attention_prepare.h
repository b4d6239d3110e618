#pragma once

#include <optional>

#include "ops/attention_prepare.h"
#include "reference/indexer_prepare.h"
#include "reference/mla_prepare.h"

namespace fulgur::reference {

struct AttentionPrepared {
  MlaPrepared mla;
  std::optional<IndexerPrepared> indexer;  // of layers that own one
};

/// Both, the indexer reading the q_latent of this oracle and not what a kernel wrote.
inline AttentionPrepared attention_prepare(const AttentionPrepare& op) {
  AttentionPrepared result{.mla = mla_prepare(op.mla)};
  if (op.indexer != nullptr) result.indexer = indexer_prepare(*op.indexer, result.mla.q_latent);
  return result;
}

}  // namespace fulgur::reference
