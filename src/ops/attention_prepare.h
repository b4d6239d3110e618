#pragma once

#include "ops/indexer_prepare.h"
#include "ops/mla_prepare.h"

namespace fulgur {

struct Context;

/// What a layer computes from its normalized input before it attends: MlaPrepare and, in layers that own an
/// indexer, IndexerPrepare, which reads the q_latent that the first one writes. A back end may merge their
/// projections and epilogues; one without an entry for this op runs the two, one after the other.
struct AttentionPrepare {
  const MlaPrepare& mla;
  const IndexerPrepare* indexer;  // null: the layer has none of its own
};
void run(Context&, const AttentionPrepare&);

}  // namespace fulgur
