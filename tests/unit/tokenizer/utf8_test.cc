#include "tokenizer/utf8.h"

#include <gtest/gtest.h>

namespace fulgur {
namespace {

TEST(Utf8, EveryCodePointComesBackAndItsPrefixesAreIncomplete) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c == 0xD800) c = 0xE000;
    std::string text;
    append_utf8(c, text);
    const Utf8Step step = next_utf8(text);
    ASSERT_EQ(step.kind, Utf8Step::kCharacter) << std::hex << static_cast<uint32_t>(c);
    ASSERT_EQ(step.length, text.size());
    ASSERT_EQ(step.code_point, c);
    for (size_t cut = 1; cut < text.size(); ++cut) {
      const std::string prefix = text.substr(0, cut);
      ASSERT_EQ(next_utf8(prefix).kind, Utf8Step::kIncomplete);
      ASSERT_EQ(next_utf8(prefix + "a").kind, Utf8Step::kInvalid);
      ASSERT_EQ(next_utf8(prefix + "a").length, cut);
    }
  }
}

TEST(Utf8, NamesTheFirstBadByte) {
  EXPECT_EQ(find_invalid_utf8("na\u00EFve \U0001F600"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("na\xEFve"), 2U);
  EXPECT_EQ(find_invalid_utf8("abc\xF0\x9F\x98"), 3U);  // cut short
  EXPECT_EQ(find_invalid_utf8("a\xED\xA0\x80"), 1U);    // a surrogate
  EXPECT_EQ(find_invalid_utf8("\xC0\x80"), 0U);         // overlong
  EXPECT_EQ(find_invalid_utf8("\xE0\x80\x80"), 0U);
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0U);  // past U+10FFFF
}

// The example of the Unicode Standard, section 3.9 (maximal subparts).
TEST(Utf8, ReplacesEachMaximalInvalidPartOnce) {
  const std::string bytes =
      "a\xF1\x80\x80\xE1\x80\xC2"
      "b\x80"
      "c\x80\xBF"
      "d";
  EXPECT_EQ(to_valid_utf8(bytes),
            "a\uFFFD\uFFFD\uFFFD"
            "b\uFFFD"
            "c\uFFFD\uFFFD"
            "d");
  EXPECT_EQ(to_valid_utf8("\xF0\x9F\x98"), "\uFFFD");
}

TEST(Utf8, QuotesWhatCantBeSeen) {
  EXPECT_EQ(quote("a\n\"\\\t\x1b\xE2\x82"), R"("a\n\"\\\t\x1b\xe2\x82")");
  EXPECT_EQ(quote("\u00E9\u4E3B\xC2\x85"), "\"\u00E9\u4E3B\\xc2\\x85\"");
}

}  // namespace
}  // namespace fulgur
