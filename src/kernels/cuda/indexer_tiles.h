#pragma once

// How the indexer's own products are cut up: for their kernels, and for the tests of these functions, which
// run without a GPU.
//
// A warp's product is mma.m16n8k16 with weights as A and tokens as B. Sums over columns don't care which
// column is called k, so a lane reads 16 bytes of consecutive columns of its row of A, and 16 bytes of the
// same columns of its token: no shared memory, no ldmatrix. Lane l holds row (and token) l / 4 and the piece
// l % 4 of a step.

#include <cstddef>

namespace fulgur::cuda {

constexpr int kPieceBytes = 16;
constexpr int kPiecesOfStep = 4;  // lanes that share a row

/// The row of A (of its first eight) and the column of B that a lane holds.
constexpr int fragment_row(int lane) { return lane / kPiecesOfStep; }
/// Where a lane's piece of a step begins, in bytes of one-step rows.
constexpr int piece_offset(int lane) { return lane % kPiecesOfStep * kPieceBytes; }
/// The first of the two columns of D, tokens, that a lane holds.
constexpr int fragment_token(int lane) { return lane % kPiecesOfStep * 2; }

/// Pitches of rows in shared memory: eight consecutive lanes that load a piece each touch all 32 banks.
constexpr int kProjectionPitch = 448;                            // bytes, of at most 7 steps of 64
constexpr int query_pitch(int columns) { return columns + 64; }  // bytes; columns a multiple of 128

// The projection [W_k; W_w] x. Its columns are cut into 32 leaves; a cluster's blocks hold 8 leaves of
// 1/4 of the rows, the 16 clusters all of them. An output is
//   leaf = (even mmas, in order) + (odd mmas, in order)
//   sum over a cluster's leaves in order, then over the four clusters in order,
// whatever the number of tokens is.
constexpr int kProjectionLeaves = 32;
constexpr int kProjectionCluster = 8;       // blocks
constexpr int kProjectionColumnGroups = 4;  // clusters beside one another in columns
constexpr int kProjectionRowGroups = 4;
constexpr int kProjectionClusters = kProjectionColumnGroups * kProjectionRowGroups;
constexpr int kProjectionMostTokens = 128;
constexpr int kProjectionMostOutputs = 192;
/// Scratch for the column groups' parts of every output, f32.
constexpr size_t kProjectBytes =
    sizeof(float) * kProjectionColumnGroups * kProjectionMostTokens * kProjectionMostOutputs;
constexpr int kProjectionStep = 32;  // columns of two mma.m16n8k16 in bf16: four pieces of eight

/// The first column of a leaf of `steps` steps.
constexpr int leaf_column(int column_group, int rank, int steps) {
  return (column_group * kProjectionCluster + rank) * steps * kProjectionStep;
}
/// Tokens are dealt to the blocks of a cluster in runs of this length, a power of two: block r finishes its
/// cluster's sums of tokens [r << log2, (r + 1) << log2).
constexpr int log2_owned_tokens(int num_tokens) {
  int log2 = 0;
  while ((kProjectionCluster << log2) < num_tokens) ++log2;
  return log2;
}
/// The one token that block (cluster, rank) finishes for all clusters, or -1.
constexpr int finished_token(int cluster, int rank, int num_tokens) {
  const int owned = 1 << log2_owned_tokens(num_tokens);
  const int token = rank * owned + cluster;
  return cluster < owned && token < num_tokens ? token : -1;
}
/// What a block of a cluster sends of each token to the block that owns it: [sources][owned][rows] where it
/// arrives, [owners][owned][rows] where it leaves. The pitch, in floats, lets the lanes of a column of D
/// touch all 32 banks.
constexpr int kSumPitch = 52;
constexpr int sum_index(int block, int owned, int row, int log2_owned) {
  return ((block << log2_owned) + owned) * kSumPitch + row;
}
/// Where the partial sums of a token lie in scratch: [tokens, column groups, outputs].
constexpr int partial_index(int token, int column_group, int output, int outputs) {
  return (token * kProjectionColumnGroups + column_group) * outputs + output;
}

// The queries' product, e4m3 weights as f16. Four blocks of a cluster hold 32 rows each of a head's 128;
// eight warps are two tiles of 16 rows times four parts of the columns. An output is
//   group of 128 columns = (the mmas of first halves of pieces, in order) + (those of second halves)
//   sum over a part's groups in order, each times its scales; then over the four parts in order.
constexpr int kQueryCluster = 4;
constexpr int kQueryRows = 32;
constexpr int kQueryParts = 4;
constexpr int kQueryGroup = 128;
constexpr int kQueryStep = 64;  // columns of four mma.m16n8k16 in f16: four pieces of sixteen codes

}  // namespace fulgur::cuda
