#include "runtime/stop_filter.h"

#include <gtest/gtest.h>

namespace fulgur {
namespace {

/// Pushes the text one byte at a time and returns all that was shown.
std::string shown_of(StopFilter filter, std::string_view text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) shown += filter.push(text.substr(i, 1));
  return shown + filter.finish();
}

TEST(StopFilter, ShowsEverythingWithoutStopTexts) { EXPECT_EQ(shown_of(StopFilter({}), "abc"), "abc"); }

TEST(StopFilter, EndsBeforeAStopTextThatArrivesInPieces) {
  EXPECT_EQ(shown_of(StopFilter({"END"}), "one END two"), "one ");
}

TEST(StopFilter, ShowsWhatOnlyBeganLikeAStopText) {
  EXPECT_EQ(shown_of(StopFilter({"END"}), "an EN"), "an EN");
}

TEST(StopFilter, FindsAStopTextInsideAFalseStart) { EXPECT_EQ(shown_of(StopFilter({"aab"}), "aaab"), "a"); }

TEST(StopFilter, TakesTheFirstOfSeveralStopTexts) {
  EXPECT_EQ(shown_of(StopFilter({"yy", "x"}), "1x2yy"), "1");
}

TEST(StopFilter, HoldsBackNoMoreThanTheBeginningOfAStopText) {
  StopFilter filter({"END"});
  EXPECT_EQ(filter.push("abcE"), "abc");
  EXPECT_EQ(filter.push("x"), "Ex");
}

}  // namespace
}  // namespace fulgur
