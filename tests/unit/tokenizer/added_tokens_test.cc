#include "tokenizer/added_tokens.h"

#include <gtest/gtest.h>

namespace fulgur {
namespace {

/// What the finder makes of the text: added tokens in brackets with their ids, text between them.
std::string found(const std::vector<AddedToken>& tokens, std::string_view text) {
  std::vector<std::pair<std::string, AddedToken>> by_text;
  by_text.reserve(tokens.size());
  for (const AddedToken& token : tokens) by_text.emplace_back(token.content, token);
  std::string all;
  for (const AddedTokenSplit& part : AddedTokenFinder(by_text).split(text)) {
    if (part.id) all.append("[").append(std::to_string(*part.id)).append(":");
    all.append(part.text);
    if (part.id) all.append("]");
  }
  return all;
}

TEST(AddedTokens, TheLeftmostIsFoundAndOfThoseTheLongest) {
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "ab"}, {.id = 2, .content = "abcd"}, {.id = 3, .content = "bcx"}};
  EXPECT_EQ(found(tokens, "abcx abcd"), "[1:ab]cx [2:abcd]");
  EXPECT_EQ(found(tokens, ""), "");
}

TEST(AddedTokens, ASingleWordTouchesNoWordCharacter) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "ab", .single_word = true}};
  EXPECT_EQ(found(tokens, "ab xab abx \u00E9ab ab\u0301 ab-ab"),
            "[1:ab] xab abx \u00E9ab ab\u0301 [1:ab]-[1:ab]");
}

TEST(AddedTokens, WhiteSpaceIsTakenInOnce) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<l>", .lstrip = true},
                                          {.id = 2, .content = "<r>", .rstrip = true}};
  EXPECT_EQ(found(tokens, "a \u3000<l> b<r>\n\t <l>"), "a[1: \u3000<l>] b[2:<r>\n\t ][1:<l>]");
}

}  // namespace
}  // namespace fulgur
