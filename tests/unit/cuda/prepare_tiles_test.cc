#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

#include "kernels/cuda/indexer_tiles.h"
#include "kernels/cuda/tile.h"

namespace fulgur::cuda {
namespace {

constexpr int kLanes = 32;
constexpr int kMmaColumns = 16;

/// mma.m16n8k16 as PTX ISA 9.0 lays its registers out: element `e` (0, 1) of register `r` of a lane.
int column_of_a(int lane, int r, int e) { return r / 2 * 8 + lane % 4 * 2 + e; }
int row_of_a(int lane, int r) { return r % 2 * 8 + lane / 4; }
int column_of_b(int lane, int r, int e) { return r * 8 + lane % 4 * 2 + e; }

/// A step of the projection or the queries on the CPU: lanes load pieces of rows and tokens as the kernels
/// do, and each mma takes the next four elements of each piece.
void check_step(int step_columns, int piece_elements) {
  const auto weight = [](int row, int column) { return row * 31 + column * 7 % 13 - 5; };
  const auto token = [](int t, int column) { return t * 17 - column * 5 % 11; };
  const int element_bytes = kPieceBytes / piece_elements;
  std::array<std::array<int, 8>, 16> sums{};
  for (int mma = 0; mma < piece_elements / 4; ++mma) {
    int a[16][kMmaColumns];
    int b[kMmaColumns][8];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int first = piece_offset(lane) / element_bytes + 4 * mma;
      for (int r = 0; r < 4; ++r) {
        for (int e = 0; e < 2; ++e) {
          a[row_of_a(lane, r)][column_of_a(lane, r, e)] =
              weight(fragment_row(lane) + r % 2 * 8, first + r / 2 * 2 + e);
        }
      }
      for (int r = 0; r < 2; ++r)
        for (int e = 0; e < 2; ++e)
          b[column_of_b(lane, r, e)][lane / 4] = token(fragment_row(lane), first + r * 2 + e);
    }
    for (int row = 0; row < 16; ++row)
      for (int t = 0; t < 8; ++t)
        for (int k = 0; k < kMmaColumns; ++k) sums[row][t] += a[row][k] * b[k][t];
  }
  for (int row = 0; row < 16; ++row) {
    for (int t = 0; t < 8; ++t) {
      int expected = 0;
      for (int column = 0; column < step_columns; ++column)
        expected += weight(row, column) * token(t, column);
      EXPECT_EQ(sums[row][t], expected) << row << ", " << t;
    }
  }
}

TEST(PrepareTiles, AStepOfPiecesIsItsProduct) {
  check_step(kProjectionStep, 8);
  check_step(kQueryStep, 16);
}

/// Where the matrix unit looks for byte `at` of a block of rows of 128 bytes under its 128-byte swizzle.
int swizzled(int at) { return at ^ ((at / 128 % 8) * 16); }

TEST(PrepareTiles, BatchesMultiplyTheColumnsThatMmasOfFewTokensDo) {
  for (const int tile : {16, 32, 64}) {
    std::vector<int> pair_at(static_cast<size_t>(tile) * 2 * kQueryGroup / 4, -1);  // of each word
    for (int token = 0; token < tile; ++token)
      for (int pair = 0; pair < kQueryGroup / 2; ++pair)
        pair_at[static_cast<size_t>(batch_latent_offset(tile, token, pair) / 4)] = token * 1000 + pair;
    for (int step = 0; step < 2; ++step) {
      for (int product = 0; product < 4; ++product) {
        for (int lane = 0; lane < kLanes; ++lane) {
          for (int r = 0; r < 4; r += 2) {  // the row's registers of A
            const int column = step * kQueryStep + piece_offset(lane) + 4 * product + r;
            for (const int token : {0, 1, 7, 8, tile - 1}) {
              const int at =
                  swizzled((step * tile + token) * 128 + product * 32 + column_of_a(lane, r, 0) * 2);
              EXPECT_EQ(pair_at[static_cast<size_t>(at / 4)], token * 1000 + column / 2);
            }
          }
        }
      }
    }
  }
}

TEST(PrepareTiles, PromptsLieAsTheMatrixUnitAndTheTensorMapHaveThem) {
  std::set<int> components;
  for (int run = 0; run < 4; ++run)
    for (int pair = 0; pair < 4; ++pair)
      for (int quad = 0; quad < 4; ++quad)
        for (int e = 0; e < 2; ++e) {
          const int column = ((run * 4 + pair) * 4 + quad) * 2 + e;  // as the box's rows arrive
          EXPECT_EQ(prompt_component(column), run * 32 + pair * 2 + quad * 8 + e);
          components.insert(prompt_component(column));
        }
  EXPECT_EQ(components.size(), 128U);
  for (int token = 0; token < kPromptTileTokens; ++token)
    for (int piece = 0; piece < kQueryGroup / 8; ++piece)
      EXPECT_EQ(prompt_latent_offset(token, piece), swizzled(token * 128 + piece * 8));
}

TEST(PrepareTiles, ABatchHasATileForEachOfItsBlocks) {
  for (int tokens = kFewQueryTokens + 1; tokens <= kProjectionMostTokens; ++tokens) {
    for (const int heads : {2, 8, 32, 64, 128}) {
      const int tile = batch_tile_tokens(tokens, heads);
      const int padded = (tokens + tile - 1) / tile * tile;
      EXPECT_LE(padded, kProjectionBlocks);  // block t of the projection lays out token t
      EXPECT_LE(padded - tokens, kMostBatchTile);
    }
  }
}

TEST(PrepareTiles, LeavesCoverTheColumnsOnce) {
  for (const auto& [hidden, steps] : {std::pair{7168, 7}, std::pair{6144, 6}}) {
    std::set<int> columns;
    for (int leaf = 0; leaf < kProjectionLeaves; ++leaf)
      for (int i = 0; i < steps * kProjectionStep; ++i) columns.insert(leaf_column(leaf, steps) + i);
    EXPECT_EQ(static_cast<int>(columns.size()), hidden);
    EXPECT_EQ(*columns.rbegin(), hidden - 1);
  }
}

TEST(PrepareTiles, EveryTokenOfFewIsFinishedByOneBlock) {
  for (int tokens = 1; tokens <= kFewProjectionTokens; ++tokens) {
    std::vector<int> finished(static_cast<size_t>(tokens));
    for (int cluster = 0; cluster < kProjectionClusters; ++cluster) {
      for (int rank = 0; rank < kProjectionCluster; ++rank) {
        const int token = finished_token(cluster, rank, tokens);
        if (token >= 0) ++finished[static_cast<size_t>(token)];
      }
    }
    EXPECT_EQ(finished, std::vector<int>(static_cast<size_t>(tokens), 1)) << tokens;
  }
}

TEST(PrepareTiles, ScratchHoldsEveryPartialSumOnce) {
  for (const int most_tokens : {32, 64, 128}) {
    const int leaves = projection_leaves(most_tokens);
    EXPECT_EQ(leaves * kProjectionTile, most_tokens);
    const int parts = kProjectionLeaves / leaves;
    std::set<int> places;
    for (int token = 0; token < most_tokens; ++token)
      for (int part = 0; part < parts; ++part)
        for (int output = 0; output < 192; ++output)
          places.insert(partial_index(token, part, parts, output, 192));
    EXPECT_EQ(places.size(), kProjectBytes / sizeof(float));
    EXPECT_EQ(*places.rbegin() + 1, static_cast<int>(places.size()));
  }
}

/// The banks that lanes [first, first + 8) touch with a 16-byte load each.
std::set<int> banks_of_pieces(int first, int pitch) {
  std::set<int> banks;
  for (int lane = first; lane < first + 8; ++lane)
    for (int word = 0; word < 4; ++word)
      banks.insert((fragment_row(lane) * pitch + piece_offset(lane)) / 4 % 32 + word);
  return banks;
}

TEST(PrepareTiles, FragmentsTouchAllBanks) {
  for (const int pitch : {kProjectionPitch, query_pitch(1536), query_pitch(2048)})
    for (int first = 0; first < kLanes; first += 8)
      EXPECT_EQ(banks_of_pieces(first, pitch).size(), 32U) << pitch;
  for (int i = 0; i < 2; ++i) {
    std::set<int> banks;
    for (int lane = 0; lane < kLanes; ++lane)
      banks.insert(((fragment_token(lane) + i) * kSumPitch + fragment_row(lane)) % 32);
    EXPECT_EQ(banks.size(), 32U);
  }
}

TEST(Tiles, OfAPromptAreNeverAsFewRowsAsADecodeStep) {
  constexpr int64_t kMost = 8192;
  for (const int rows : {1, 128, 129, 8192, 8193, 8320, 8321, 16384, 16385, 16512, 100000, 1 << 20}) {
    TokenBatch batch;
    batch.num_tokens = rows;
    int64_t covered = 0;
    for_each_tile(batch, kMost, [&](const TokenBatch& tile, int64_t first) {
      EXPECT_EQ(first, covered);
      EXPECT_LE(tile.num_tokens, kMost);
      EXPECT_EQ(tile.num_tokens <= kProjectionMostTokens, rows <= kProjectionMostTokens) << rows;
      covered += tile.num_tokens;
    });
    EXPECT_EQ(covered, rows);
  }
}

}  // namespace
}  // namespace fulgur::cuda
