#include "kernels/cuda/index_tile.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>
#include <vector>

namespace fulgur::cuda {
namespace {

/// The byte of B that the matrix unit reads for head `head`, byte `byte` of step `step`: rows of 128 bytes,
/// eight to a block of 1,024, 16-byte units exchanged by the address's bits 7 to 9 (PTX ISA, "128-byte
/// swizzle").
uint32_t operand_byte(int head, int step, int byte) {
  const uint32_t address =
      query_step_offset(step) + static_cast<uint32_t>(head / 8 * 1024 + head % 8 * 128 + byte);
  return address ^ ((address >> 7 & 7) << 4);
}

/// Byte of the key row that lane quad `quad` gives as byte `byte` of register `half * 2` (lower or upper 16
/// bytes of the step), as load_keys fills them: chunk quad, or quad + 4, word `step` of it.
int key_byte(int step, int quad, int half, int byte) { return (quad + 4 * half) * 16 + step * 4 + byte; }

class IndexTile : public testing::TestWithParam<int> {};  // heads

TEST_P(IndexTile, ProductsOfTheFragmentsAreTheDotProducts) {
  const int heads = GetParam();
  std::mt19937 random(7);
  std::vector<int8_t> query(static_cast<size_t>(heads * kKeyBytes));
  std::vector<int8_t> key(static_cast<size_t>(kKeyBytes));
  for (int8_t& code : query) code = static_cast<int8_t>(random());
  for (int8_t& code : key) code = static_cast<int8_t>(random());

  std::vector<int8_t> operand(query.size());
  for (int head = 0; head < heads; ++head) {
    for (int chunk = 0; chunk < kKeyChunks; ++chunk) {
      for (int word = 0; word < kWordsPerChunk; ++word) {
        std::memcpy(&operand[query_word_offset(head, chunk, word)],
                    &query[static_cast<size_t>(head * kKeyBytes + chunk * 16 + word * 4)], 4);
      }
    }
  }
  for (int head = 0; head < heads; ++head) {
    int expected = 0;
    for (int d = 0; d < kKeyBytes; ++d)
      expected += query[static_cast<size_t>(head * kKeyBytes + d)] * key[static_cast<size_t>(d)];
    int sum = 0;
    for (int step = 0; step < kProductSteps; ++step) {
      for (int byte = 0; byte < 32; ++byte) {
        // Bytes 4q to 4q + 3 of a step's lower and upper 16 are quad q's (PTX ISA, wgmma's A of 8-bit types).
        sum += key[static_cast<size_t>(key_byte(step, byte % 16 / 4, byte / 16, byte % 4))] *
               operand[operand_byte(head, step, byte)];
      }
    }
    EXPECT_EQ(sum, expected) << "head " << head;
  }
}

TEST_P(IndexTile, EveryWordOfAQueryHasItsPlace) {
  const int heads = GetParam();
  std::set<uint32_t> places;
  for (int head = 0; head < heads; ++head) {
    for (int chunk = 0; chunk < kKeyChunks; ++chunk) {
      for (int word = 0; word < kWordsPerChunk; ++word) places.insert(query_word_offset(head, chunk, word));
    }
  }
  EXPECT_EQ(places.size(), static_cast<size_t>(heads * kKeyBytes / 4));
  EXPECT_EQ(*places.rbegin(), static_cast<uint32_t>(heads * kKeyBytes - 4));
}

INSTANTIATE_TEST_SUITE_P(Heads, IndexTile, testing::Values(64, 32));

TEST(IndexTileReads, EightLanesOfAPhaseTouchAllBanks) {
  for (int phase = 0; phase < 4; ++phase) {
    for (const bool second : {false, true}) {
      std::set<int> units;
      for (int lane = phase * 8; lane < phase * 8 + 8; ++lane) {
        const int row = lane / 4;
        const int chunk = second ? second_chunk(row, lane % 4) : first_chunk(row, lane % 4);
        units.insert((row * kKeyBytes / 16 + chunk) % 8);  // of the 128 bytes that the banks serve at once
      }
      EXPECT_EQ(units.size(), 8);
    }
  }
}

}  // namespace
}  // namespace fulgur::cuda
