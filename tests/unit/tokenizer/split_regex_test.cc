#include "tokenizer/split_regex.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

using Parts = std::vector<std::string>;

Parts split(const std::string& regex, const std::string& text) {
  const std::u32string characters = decode_utf8(text);
  Parts parts;
  for (const Span& span : SplitRegex(parse_regex(regex)).split(characters, {{0, characters.size()}})) {
    parts.push_back(encode_utf8(std::u32string_view(characters).substr(span.begin, span.end - span.begin)));
  }
  return parts;
}

// U+180E was white space until Unicode 6.3, and is still to PCRE2's \s.
TEST(SplitRegex, TakesTheMongolianVowelSeparatorForNoSpace) {
  EXPECT_EQ(split(R"(\s+)", "a\u180E\u2003b"), (Parts{"a\u180E", "\u2003", "b"}));
}

// U+1E4D0 is a letter since Unicode 15; Debian 12's PCRE2 knows 14.
TEST(SplitRegex, KnowsLettersNewerThanTheLibrary) {
  EXPECT_EQ(split(R"(\p{L}+)",
                  "1\U0001E4D0\U0001E4D1"
                  "2"),
            (Parts{"1", "\U0001E4D0\U0001E4D1", "2"}));
}

TEST(SplitRegex, LongSAndKelvinAreLettersOfContractions) {
  EXPECT_EQ(split("(?i:'s|'k)", "x'\u017Fy'\u212Az'K"), (Parts{"x", "'\u017F", "y", "'\u212A", "z", "'K"}));
  EXPECT_EQ(split("'s|(?-i:'k)", "'\u017F'K"), (Parts{"'\u017F'K"}));
}

TEST(SplitRegex, CutsAtEmptyMatchesButNotJustAfterAMatch) {
  EXPECT_EQ(split("a*", "bbaab"), (Parts{"b", "b", "aa", "b"}));
  EXPECT_EQ(split("", "bcd"), (Parts{"b", "c", "d"}));
}

TEST(SplitRegex, AnIntervalFollowedByPlusIsRepeatedNotPossessive) {
  EXPECT_EQ(split(R"(\p{N}{1,3}+)", "1234567"), (Parts{"1234567"}));
}

TEST(SplitRegex, LooksAroundInsideItsPieceOnly) {
  const std::u32string text = U"a b";
  const SplitRegex regex(parse_regex(R"(\s(?!\S))"));
  EXPECT_EQ(regex.split(text, {{0, 2}, {2, 3}}), (std::vector<Span>{{0, 1}, {1, 2}, {2, 3}}));
  EXPECT_EQ(regex.split(text, {{0, 3}}), (std::vector<Span>{{0, 3}}));
}

TEST(SplitRegex, GivesUpWithASentenceWhereAMatchTakesForever) {
  try {
    split("(?:a|aa)+(?:b|c)", std::string(200, 'a'));
    FAIL() << "it matched";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadRequest);
    EXPECT_NE(std::string(error.what()).find("limit"), std::string::npos) << error.what();
  }
}

TEST(SplitRegex, ALongRunThroughAGroupMatchesWhole) {
  EXPECT_EQ(split("(?:a|b)+c?", std::string(1'000'000, 'a')).size(), 1U);
}

TEST(SplitRegex, RefusesAPatternOfMoreKindsOfCharactersThanAByteHolds) {
  std::string pattern;
  for (char32_t c = 0x4E00; c < 0x4E00 + 300; ++c) append_utf8(c, pattern);
  EXPECT_THROW(SplitRegex(parse_regex(pattern)), Error);
}

}  // namespace
}  // namespace fulgur
