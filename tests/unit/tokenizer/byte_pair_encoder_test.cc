#include "tokenizer/byte_pair_encoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace fulgur {
namespace {

using Ids = std::vector<int32_t>;

std::array<int32_t, 256> bytes_by_value() {
  std::array<int32_t, 256> ids{};
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

/// Does the merge at its leftmost place; false if it applies nowhere.
bool apply(const Merge& merge, Ids& ids) {
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    if (ids[i] != merge.left || ids[i + 1] != merge.right) continue;
    ids[i] = merge.merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    return true;
  }
  return false;
}

/// The definition: as long as any merge applies, do the first in the list that does.
Ids plainly(const std::vector<Merge>& merges, const std::string& word) {
  Ids ids;
  for (const char byte : word) ids.push_back(static_cast<unsigned char>(byte));
  while (std::any_of(merges.begin(), merges.end(), [&](const Merge& merge) { return apply(merge, ids); })) {
  }
  return ids;
}

TEST(BytePairEncoder, MergesAsTheDefinitionDoes) {
  for (uint32_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto any_of = [&](const Ids& ids) { return ids[random() % ids.size()]; };
    // Tokens over a, b, c: each merge joins two that are there, no pair twice.
    Ids tokens = {'a', 'b', 'c'};
    std::vector<Merge> merges;
    for (int32_t id = 256; id < 256 + 12; ++id) {
      const Merge merge{any_of(tokens), any_of(tokens), id};
      const auto same = [&](const Merge& m) { return m.left == merge.left && m.right == merge.right; };
      if (std::any_of(merges.begin(), merges.end(), same)) continue;
      merges.push_back(merge);
      tokens.push_back(id);
    }
    const BytePairEncoder encoder(bytes_by_value(), merges, {});
    for (int i = 0; i < 20; ++i) {
      std::string word;
      for (uint32_t n = random() % 40; n > 0; --n) word += static_cast<char>('a' + random() % 3);
      Ids ids;
      encoder.encode(word, true, ids);
      ASSERT_EQ(ids, plainly(merges, word)) << word;
    }
  }
}

TEST(BytePairEncoder, OfTwoMergesOfTheSamePairTheLaterCounts) {
  const BytePairEncoder encoder(bytes_by_value(), {{'a', 'b', 300}, {'b', 'c', 301}, {'a', 'b', 300}}, {});
  Ids ids;
  encoder.encode("abc", true, ids);
  EXPECT_EQ(ids, (Ids{'a', 301}));
}

TEST(BytePairEncoder, TakesWholeWordsAsTheyAreButNoAddedTokenInPlainText) {
  const BytePairEncoder encoder(bytes_by_value(), {{'a', 'b', 300}},
                                {{"abba", {301, false}}, {"baab", {302, true}}});
  Ids ids;
  encoder.encode("abba", false, ids);
  encoder.encode("baab", true, ids);
  EXPECT_EQ(ids, (Ids{301, 302}));
  ids.clear();
  encoder.encode("baab", false, ids);
  EXPECT_EQ(ids, (Ids{'b', 'a', 300}));
}

}  // namespace
}  // namespace fulgur
