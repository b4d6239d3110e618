#include "runtime/page_pool.h"

#include <gtest/gtest.h>

#include <numeric>

namespace fulgur {
namespace {

/// Pages full of tokens, the same for the same begin.
std::vector<int32_t> tokens_from(int32_t begin, int64_t pages) {
  std::vector<int32_t> tokens(static_cast<size_t>(pages * kPageTokens));
  std::iota(tokens.begin(), tokens.end(), begin);
  return tokens;
}

/// Takes pages for `tokens` and publishes them all.
std::vector<int32_t> fill(PagePool& pool, std::span<const int32_t> tokens) {
  std::vector<int32_t> pages;
  for (; !tokens.empty(); tokens = tokens.subspan(kPageTokens)) {
    const int parent = pages.empty() ? -1 : pages.back();
    pages.push_back(pool.publish(pool.take(), parent, tokens.first(kPageTokens)));
  }
  return pages;
}

uint64_t same_hash(uint64_t, std::span<const int32_t>) { return 7; }

TEST(PagePool, TakesTheLowestFreePage) {
  PagePool pool(8);
  for (int page = 0; page < 5; ++page) EXPECT_EQ(pool.take(), page);
  pool.release(std::vector<int32_t>{3, 1});
  pool.release(std::vector<int32_t>{4});
  for (const int page : {1, 3, 4, 5}) EXPECT_EQ(pool.take(), page);
}

TEST(PagePool, FindsThePagesOfTheLongestCachedPrefix) {
  PagePool pool(8);
  const auto tokens = tokens_from(0, 3);
  const auto pages = fill(pool, tokens);
  auto longer = tokens;
  longer[130] = -5;  // in the third page
  EXPECT_EQ(pool.take_prefix(longer, 3), std::vector(pages.begin(), pages.begin() + 2));
  EXPECT_EQ(pool.num_holders(pages[0]), 2);
  EXPECT_EQ(pool.num_holders(pages[2]), 1);
  EXPECT_EQ(pool.take_prefix(tokens, 1).size(), 1U);                        // as many as are asked for
  EXPECT_TRUE(pool.take_prefix(std::span(tokens).first(63), 3).empty());    // full pages alone
  EXPECT_TRUE(pool.take_prefix(std::span(tokens).subspan(64), 2).empty());  // the same page, another prefix
}

TEST(PagePool, KeepsPagesThatNobodyHoldsUntilTheyAreNeededAndTakesTheOldestLeafFirst) {
  PagePool pool(4);
  const auto first = tokens_from(0, 2);
  const auto second = tokens_from(1000, 2);
  pool.release(fill(pool, first));
  pool.release(fill(pool, second));
  EXPECT_EQ(pool.num_available(), 4);
  EXPECT_EQ(pool.num_idle(), 4);
  pool.release(pool.take_prefix(first, 2));  // used again: the second is now the oldest
  pool.take();
  EXPECT_EQ(pool.take_prefix(second, 2).size(), 1U);  // its last page went, its first can be found
  EXPECT_EQ(pool.take_prefix(first, 2).size(), 2U);
  EXPECT_EQ(pool.num_available(), 0);
}

TEST(PagePool, GivesTheHolderOfAPageThatIsCachedAlreadyTheCachedOne) {
  PagePool pool(4);
  const auto tokens = tokens_from(0, 1);
  const int page = pool.take();
  const int twin = pool.take();
  EXPECT_EQ(pool.publish(page, -1, tokens), page);
  EXPECT_EQ(pool.publish(twin, -1, tokens), page);
  EXPECT_EQ(pool.num_holders(page), 2);
  EXPECT_EQ(pool.num_holders(twin), 0);
  EXPECT_EQ(pool.num_available(), 3);
}

TEST(PagePool, TellsPrefixesOfEqualHashesApart) {
  PagePool pool(6, same_hash);
  const auto first = fill(pool, tokens_from(0, 2));
  const auto second = fill(pool, tokens_from(500, 2));
  EXPECT_EQ(pool.take_prefix(tokens_from(0, 2), 2), first);
  EXPECT_EQ(pool.take_prefix(tokens_from(500, 2), 2), second);
  pool.release(second);
  pool.release(second);
  EXPECT_EQ(pool.num_idle(), 2);
}

}  // namespace
}  // namespace fulgur
