#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

#include "kernels/cuda/indexer_tiles.h"

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

TEST(PrepareTiles, LeavesCoverTheColumnsOnce) {
  for (const auto& [hidden, steps] : {std::pair{7168, 7}, std::pair{6144, 6}}) {
    std::set<int> columns;
    for (int group = 0; group < kProjectionColumnGroups; ++group)
      for (int rank = 0; rank < kProjectionCluster; ++rank)
        for (int i = 0; i < steps * kProjectionStep; ++i) columns.insert(leaf_column(group, rank, steps) + i);
    EXPECT_EQ(static_cast<int>(columns.size()), hidden);
    EXPECT_EQ(*columns.rbegin(), hidden - 1);
  }
}

TEST(PrepareTiles, EveryTokenIsFinishedByOneBlockThatOwnsIt) {
  for (int tokens = 1; tokens <= kProjectionMostTokens; ++tokens) {
    std::vector<int> finished(static_cast<size_t>(tokens));
    const int log2 = log2_owned_tokens(tokens);
    for (int cluster = 0; cluster < kProjectionClusters; ++cluster) {
      for (int rank = 0; rank < kProjectionCluster; ++rank) {
        const int token = finished_token(cluster, rank, tokens);
        if (token < 0) continue;
        EXPECT_EQ(token >> log2, rank);
        ++finished[static_cast<size_t>(token)];
      }
    }
    EXPECT_EQ(finished, std::vector<int>(static_cast<size_t>(tokens), 1)) << tokens;
  }
}

TEST(PrepareTiles, ScratchHoldsEveryPartialSumOnce) {
  std::set<int> places;
  for (int token = 0; token < kProjectionMostTokens; ++token)
    for (int group = 0; group < kProjectionColumnGroups; ++group)
      for (int output = 0; output < 192; ++output) places.insert(partial_index(token, group, output, 192));
  EXPECT_EQ(places.size(), kProjectBytes / sizeof(float));
  EXPECT_EQ(*places.rbegin() + 1, static_cast<int>(places.size()));
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
      banks.insert(sum_index(0, fragment_token(lane) + i, fragment_row(lane), 0) % 32);
    EXPECT_EQ(banks.size(), 32U);
  }
}

}  // namespace
}  // namespace fulgur::cuda
