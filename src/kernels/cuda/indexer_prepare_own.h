#pragma once

#include "base/matrix.h"
#include "kernels/cuda/stream.h"
#include "ops/arena.h"
#include "ops/indexer_prepare.h"

namespace fulgur::cuda {

// indexer_prepare's tuned kernels as parts of the op: for kFused, V3.2's and GLM-5's shapes, bf16 operands
// and 16-byte alignment.

/// Whether a stream's device and options let them run: blocks of the projection wait for one another, so all
/// of a launch have to fit on the device.
bool runs_own_kernels(const Stream& stream);

/// [W_k; W_w] in bf16, at most 128 tokens: the product, and with bf16 or FP8 keys everything up to the cache.
bool own_projection_takes(const IndexerPrepare& op);
void own_projection(Stream& stream, const IndexerPrepare& op, const Operand& projected);
/// Keys into the cache and head weights, sigma_q not yet in them.
void own_decode_keys(Stream& stream, const IndexerPrepare& op);
/// The same and the queries, where own_queries_take too.
void own_decode(Stream& stream, Arena& arena, const IndexerPrepare& op);

/// From kw = [W_k; W_w] x (aligned rows) to keys in the cache and head weights, sigma_q not yet in them; any
/// number of tokens.
bool own_prompt_keys_take(const IndexerPrepare& op);
void own_prompt_keys(Stream& stream, const IndexerPrepare& op, const Matrix<const float>& projected);

/// wq_b in FP8, blocks of 128 x 128; any number of tokens.
bool own_queries_take(const IndexerPrepare& op);
/// From q_latent to q, and sigma_q into the head weights.
void own_queries(Stream& stream, Arena& arena, const IndexerPrepare& op);

}  // namespace fulgur::cuda
