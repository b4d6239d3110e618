#pragma once

#include "ops/context.h"
#include "ops/indexer_select.h"

namespace fulgur::cuda {

/// FP8 keys of 128 components, 64 or 32 heads, at most 524,288 positions: indexer_tuned.h's kernels.
bool tuned_takes(const IndexerSelect& op);
bool tuned_takes(const IndexerScores& op);

/// The least Context::index_scratch_bytes that these kernels do with: scores of one row and, of a prompt, its
/// query as they read it.
int64_t tuned_least_scratch(const IndexerShape& shape, int64_t max_context);

/// What IndexerSelect and IndexerScores ask, of calls that tuned_takes. The scores are the same bits in both.
void select_tuned(Context& context, const IndexerSelect& op);
void scores_tuned(Context& context, const IndexerScores& op);

}  // namespace fulgur::cuda
