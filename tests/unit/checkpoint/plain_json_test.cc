// The short way through JSON tells what the long way tells, or that it doesn't know.

#include "checkpoint/plain_json.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/json_words.h"

namespace fulgur {
namespace {

constexpr size_t kAllEvents = std::numeric_limits<size_t>::max();

const std::string kHeader =
    R"( {"__metadata__":{"format":"pt"}, "a.b" : {"dtype":"F8_E4M3","shape":[ ],"data_offsets":[0,)"
    "\n\t 9999999999999999999 ]},\r\"~ !#[]{}:,\":{},\"\":[[],[{}],[0,10]]} ";

/// Whether the short way takes the text; if so, the long way does, and tells the same up to any event.
bool takes_as_others_do(const std::string& text, size_t most_events = kAllEvents) {
  if (!is_plain_json(text)) return false;
  JsonWords plain(most_events);
  JsonWords all(most_events);
  EXPECT_EQ(PlainJson(text, plain).read(), nlohmann::json::sax_parse(text, &all)) << text;
  EXPECT_EQ(plain.text(), all.text()) << text;
  return true;
}

TEST(PlainJson, TellsTheSameEventsToWhicheverItsReaderStopsAt) {
  ASSERT_TRUE(takes_as_others_do(kHeader));
  for (size_t most = 0; most < 50; ++most) EXPECT_TRUE(takes_as_others_do(kHeader, most));
}

TEST(PlainJson, TakesAllThatHeadersHold) {
  for (const char* text :
       {"0", "7", "\"\"", "[]", "{}", " [ 9999999999999999999 ] ", R"({"a":1,"a":2})", R"({"":{},"":[]})",
        "[[[[[[[[[[[[[[[[1,0]]]]]]]]]]]]]]]]", R"(["/ ~#'"])", "\r\n\t {\"a\"\n:\t[ ]\r}\n"}) {
    EXPECT_TRUE(takes_as_others_do(text)) << text;
  }
}

TEST(PlainJson, TakesNothingThatIsCutOrHasOneCharacterMoreThatMakesItNoJson) {
  for (size_t cut = 0; cut + 1 < kHeader.size(); ++cut)
    EXPECT_FALSE(is_plain_json(kHeader.substr(0, cut))) << cut;
  for (size_t i = 0; i <= kHeader.size(); ++i) {
    for (const char more : std::string_view("{}[],:\"0-\\\0\x80\n\x1f~\x7f", 16)) {
      std::string text = kHeader;
      text.insert(i, 1, more);
      takes_as_others_do(text);
    }
  }
}

TEST(PlainJson, LeavesToOthersWhatItDoesNotKnow) {
  for (const char* text : {"",
                           " ",
                           "[-1]",
                           "[-0]",
                           "[1.5]",
                           "[1e3]",
                           "[0E0]",
                           "[01]",
                           "[00]",
                           "[+1]",
                           "[10000000000000000000]",
                           "[18446744073709551616]",
                           "[true]",
                           "[null]",
                           "[NaN]",
                           R"(["\n"])",
                           R"(["\""])",
                           R"({"\u0061":1})",
                           R"(["\ud800"])",
                           R"(["\ud83d\ude00"])",
                           "[\"\t\"]",
                           "[\"\x7f\"]",
                           "[\"\xc3\xa9\"]",
                           "[\"\xc0\x80\"]",
                           "[\"\xed\xa0\x80\"]",
                           "\xef\xbb\xbf[]",
                           "[1] 2",
                           "[1]]",
                           "[1],",
                           "{}{}",
                           "{\"a\" 1}",
                           "{\"a\":1,}",
                           "{\"a\":}",
                           "{\"a\"}",
                           "{,}",
                           "{]",
                           "[}",
                           "[1,]",
                           "[,1]",
                           "{1:2}",
                           "[1 2]",
                           "[1:2]",
                           "[/**/]",
                           "['a']",
                           "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]"}) {
    EXPECT_FALSE(is_plain_json(text)) << text;
  }
}

/// A few of a text's characters left out, put in, made another or moved.
std::string changed(std::string text, std::mt19937_64& random) {
  constexpr std::string_view kCharacters = "{}[],:\"\"0019-+.eE\\u \n\t/a~\x7f\x80\xc3\xff";
  const auto below = [&](size_t most) { return static_cast<size_t>(random() % std::max<size_t>(most, 1)); };
  for (size_t changes = 1 + below(4); changes > 0; --changes) {
    const size_t at = below(text.size());
    const size_t length = 1 + below(6);
    switch (below(4)) {
      case 0:
        text.erase(at, length);
        break;
      case 1:
        text.insert(at, 1, kCharacters[below(kCharacters.size())]);
        break;
      case 2:
        if (!text.empty()) text[at] = kCharacters[below(kCharacters.size())];
        break;
      default:
        text.insert(below(text.size()), text.substr(at, length));
    }
  }
  return text;
}

TEST(PlainJson, TellsTheSameEventsOfTextsChangedAtRandom) {
  constexpr int kTexts = 20'000;
  constexpr int kFewestTaken = kTexts / 20;  // else it would say nothing
  const std::vector<std::string> texts = {kHeader, R"({"a":[1,22,[]],"b":{"c":"d","e":{}}})",
                                          "[0,10,9999999999999999999,[[],[{}]]]",
                                          "[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]", R"({"a":1,"a":1})"};
  std::mt19937_64 random(5);
  int taken = 0;
  for (int i = 0; i < kTexts; ++i) {
    const std::string text = changed(texts[static_cast<size_t>(i) % texts.size()], random);
    taken += takes_as_others_do(text, i % 3 == 0 ? random() % 30 : kAllEvents) ? 1 : 0;
    if (HasFailure()) break;
  }
  EXPECT_GE(taken, kFewestTaken);
}

}  // namespace
}  // namespace fulgur
