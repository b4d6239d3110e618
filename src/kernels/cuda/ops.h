#pragma once

// The ops of the CUDA back end's table. Each takes any shape; where a kernel made for some shapes takes the
// call and the stream wants such kernels (CudaOptions::tuned), that one runs.

#include "ops/context.h"
#include "ops/indexer_prepare.h"
#include "ops/indexer_select.h"
#include "ops/mla_attention.h"
#include "ops/mla_prepare.h"

namespace fulgur::cuda {

void mla_prepare(Context& context, const MlaPrepare& op);
void indexer_prepare(Context& context, const IndexerPrepare& op);
void indexer_select(Context& context, const IndexerSelect& op);
int64_t least_index_scratch(const IndexerShape& shape, int64_t topk, int64_t max_context, int threads);
void indexer_scores(Context& context, const IndexerScores& op);
void sparse_mla(Context& context, const SparseMla& op);
void dense_mla(Context& context, const DenseMla& op);

}  // namespace fulgur::cuda
