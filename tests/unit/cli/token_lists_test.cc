#include "cli/token_lists.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fulgur::cli {
namespace {

using Lists = std::vector<std::vector<int32_t>>;

TEST(TokenLists, AreOneArrayOrAnArrayOfArrays) {
  EXPECT_EQ(parse_token_lists("[1, 2, 3]", "f"), (Lists{{1, 2, 3}}));
  EXPECT_EQ(parse_token_lists("[[1], [2147483647, 0]]", "f"), (Lists{{1}, {2147483647, 0}}));
}

TEST(TokenLists, RefuseEverythingElseAndNameTheFile) {
  for (const char* text :
       {"", "{", "{}", "3", "[]", "[[]]", "[[1], []]", "[1, [2]]", "[[1], 2]", "[-1]", "[1.5]", "[1e3]",
        "[\"1\"]", "[null]", "[true]", "[2147483648]", "[18446744073709551616]", "[1] [2]", "[1,]"}) {
    try {
      parse_token_lists(text, "ids.json");
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadRequest) << text;
      EXPECT_TRUE(std::string(error.what()).starts_with("ids.json: ")) << error.what();
    }
  }
}

TEST(IdList, IsCommaSeparatedNumbers) {
  EXPECT_EQ(parse_ids("0,17,5", "--ids"), (std::vector<int32_t>{0, 17, 5}));
}

TEST(IdList, IsWhatTokenizePrints) {
  EXPECT_EQ(parse_ids("[0, 17, 5]\n", "--ids"), (std::vector<int32_t>{0, 17, 5}));
}

TEST(IdList, RefusesEverythingElse) {
  for (const char* text :
       {"", ",", "1,", ",1", "1,,2", "1 2", "-1", "+1", "1.0", "a", "2147483648", "1, 2", "[1", "[-1]"}) {
    EXPECT_THROW(parse_ids(text, "--ids"), Error) << text;
  }
}

}  // namespace
}  // namespace fulgur::cli
