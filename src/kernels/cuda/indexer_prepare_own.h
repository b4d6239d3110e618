#pragma once

#include "base/matrix.h"
#include "kernels/cuda/stream.h"
#include "ops/indexer_prepare.h"

namespace fulgur::cuda {

// indexer_prepare's tuned kernels as parts of the op: for kFused, V3.2's and GLM-5's shapes, at most 128
// tokens, bf16 operands and 16-byte alignment.

/// Whether a stream's device and options let them run: their blocks wait for one another, so all of a launch
/// have to fit on it, two on a multiprocessor.
bool runs_own_kernels(const Stream& stream);

/// [W_k; W_w] in bf16: the product, and with bf16 or FP8 keys everything up to the cache.
bool own_projection_takes(const IndexerPrepare& op);
void own_projection(Stream& stream, const IndexerPrepare& op, const Operand& projected);
/// Keys into the cache and head weights, sigma_q not yet in them.
void own_keys(Stream& stream, const IndexerPrepare& op);

/// wq_b in FP8, blocks of 128 x 128.
bool own_queries_take(const IndexerPrepare& op);
/// From q_latent to q, and sigma_q into the head weights.
void own_queries(Stream& stream, const IndexerPrepare& op);

}  // namespace fulgur::cuda
