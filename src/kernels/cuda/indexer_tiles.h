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

// The projection [W_k; W_w] x. Its columns are cut into 32 leaves. An output is
//   leaf = (even mmas, in order) + (odd mmas, in order)
//   quad = (leaf 0 + leaf 1) + (leaf 2 + leaf 3), and so on: eight of them
//   the four sums of two quads, in order,
// whatever the number of tokens is.
constexpr int kProjectionLeaves = 32;
constexpr int kProjectionQuads = kProjectionLeaves / 4;
constexpr int kProjectionRowGroups = 4;
constexpr int kProjectionMostTokens = 128;
constexpr int kProjectionMostOutputs = 192;
constexpr int kProjectionStep = 32;  // columns of two mma.m16n8k16 in bf16: four pieces of eight
constexpr int kProjectionBlocks = kProjectionLeaves * kProjectionRowGroups;

/// The first column of a leaf of `steps` steps.
constexpr int leaf_column(int leaf, int steps) { return leaf * steps * kProjectionStep; }

// Up to eight tokens, a block has a leaf of 1/4 of the rows. A cluster's eight blocks hold eight leaves, the
// 16 clusters all of them.
constexpr int kFewProjectionTokens = 8;
constexpr int kProjectionCluster = 8;       // blocks
constexpr int kProjectionColumnGroups = 4;  // clusters beside one another in columns
constexpr int kProjectionClusters = kProjectionColumnGroups * kProjectionRowGroups;

/// The token that block (cluster, rank) finishes for all clusters, or -1: the first cluster's own theirs.
constexpr int finished_token(int cluster, int rank, int num_tokens) {
  return cluster == 0 && rank < num_tokens ? rank : -1;
}
/// What a block of a cluster sends of each token to the block that owns it: [sources][rows]. The pitch, in
/// floats, lets the lanes of a column of D touch all 32 banks.
constexpr int kSumPitch = 52;

// Above, a block has 32 tokens, 1/4 of the rows, and as many leaves as there are tiles of 32 tokens.
constexpr int kProjectionTile = 32;
/// Leaves a block, or tiles of tokens: 1, 2 or 4.
constexpr int projection_leaves(int num_tokens) {
  return num_tokens <= kProjectionTile ? 1 : num_tokens <= 2 * kProjectionTile ? 2 : 4;
}

/// Scratch for all parts of every output, f32: tokens times parts is the same for 32, 64 and 128 tokens.
constexpr size_t kProjectBytes = sizeof(float) * kProjectionTile * kProjectionLeaves * kProjectionMostOutputs;
/// Where sums of whole blocks lie in scratch until all of a token's are there: [tokens, parts, outputs]. Few
/// tokens have four parts, a cluster's each; many have 32, 16 or 8 of 1, 2 or 4 leaves.
constexpr int partial_index(int token, int part, int parts, int output, int outputs) {
  return (token * parts + part) * outputs + output;
}

// The queries' product, e4m3 weights as f16. An output is
//   group of 128 columns = its eight mmas, in order
//   sum over a part's groups in order, each times its scales; then over the four parts in order,
// whatever the number of tokens up to 128 is.
constexpr int kQueryParts = 4;
constexpr int kQueryGroup = 128;
constexpr int kQueryStep = 64;  // columns of four mma.m16n8k16 in f16: four pieces of sixteen codes

// Up to eight tokens, four blocks of a cluster hold 32 rows each of a head's 128, and eight warps are two
// tiles of 16 rows times four parts.
constexpr int kFewQueryTokens = 8;
constexpr int kQueryCluster = 4;
constexpr int kQueryRows = 32;

// Above, a block has a head, and tokens lie in tiles: of each group of columns [steps][tokens][128 bytes],
// f16, as the matrix unit wants B with its 128-byte swizzle. The words of a step are turned round so that the
// four products of a step take the columns that the mmas of the few do.

constexpr int kMostBatchTile = 64;
/// Tokens of a tile: 8, 16, 32 or 64, so that heads and tiles come to at least 128 blocks where they can.
constexpr int batch_tile_tokens(int num_tokens, int num_heads) {
  constexpr int kBlocks = 128;
  const int tiles = num_heads < kBlocks ? kBlocks / num_heads : 1;
  int tile = 8;
  while (tile < kMostBatchTile && tile * tiles < num_tokens) tile *= 2;
  return tile;
}

/// Byte, from the start of a tile's group, of the pair of columns `pair` of a token.
constexpr int batch_latent_offset(int tile_tokens, int token, int pair) {
  constexpr int kPairs = kQueryStep / 2;
  constexpr int kPairsOfPiece = kPairs / kPiecesOfStep;  // a lane's sixteen codes
  const int step = pair / kPairs;
  const int unit = pair % kPairsOfPiece;           // of 16 bytes
  const int word = pair % kPairs / kPairsOfPiece;  // of the unit: lane % 4
  return (step * tile_tokens + token) * 2 * kQueryStep + (unit ^ (token & 7)) * kPieceBytes + word * 4;
}

// Prompts: e4m3 against e4m3. Tokens lie in tiles of 64, of each group [tokens][128 bytes], swizzled
// likewise.
constexpr int kPromptTileTokens = 64;
/// Byte, from the start of a tile's group, of a token's piece of eight codes.
constexpr int prompt_latent_offset(int token, int piece) {
  return token * kQueryGroup + (piece / 2 ^ (token & 7)) * kPieceBytes + piece % 2 * 8;
}
// The rows of a head come in an order that gives each of the four threads of a token whole runs of eight
// components, both ends of each rotated pair among them: column n of D is component
//   32 (n / 32) + 8 (n % 8 / 2) + 2 (n % 32 / 8) + n % 2.
constexpr int prompt_component(int column) {
  return column / 32 * 32 + column % 8 / 2 * 8 + column % 32 / 8 * 2 + column % 2;
}

}  // namespace fulgur::cuda
