#include "runtime/stop_filter.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

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

TEST(StopFilter, OfTwoOverlappingStopTextsTakesTheOneThatEndsFirst) {
  for (const char* text : {"xabcd", "xabc"}) EXPECT_EQ(StopFilter({"abcd", "bc"}).push(text), "xa");
  EXPECT_EQ(shown_of(StopFilter({"abcd", "bc"}), "xabcd"), "xa");
}

/// What is before the stop text that ends first, by trying every end.
std::string before_first_stop(const std::vector<std::string>& stops, std::string_view text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops) {
      if (text.substr(0, end).ends_with(stop)) longest = std::max(longest, stop.size());
    }
    if (longest > 0) return std::string(text.substr(0, end - longest));
  }
  return std::string(text);
}

TEST(StopFilter, ShowsTheSameHoweverTheTextArrives) {
  EXPECT_TRUE(rc::check([] {
    // Two letters, so that stop texts overlap, repeat and nearly match.
    const auto word = [](int least, int most) {
      return rc::gen::mapcat(rc::gen::inRange(least, most + 1), [](int size) {
        return rc::gen::container<std::string>(static_cast<size_t>(size), rc::gen::element('a', 'b'));
      });
    };
    const auto stops = *rc::gen::container<std::vector<std::string>>(word(1, 5));
    const std::string text = *word(0, 40);
    StopFilter filter(stops);
    std::string shown;
    for (size_t at = 0; at < text.size();) {
      const auto size = *rc::gen::inRange<size_t>(1, 8);
      shown += filter.push(std::string_view(text).substr(at, size));
      at += size;
    }
    shown += filter.finish();
    RC_ASSERT(shown == before_first_stop(stops, text));
    RC_ASSERT(filter.stopped() == (shown.size() < text.size()));
  }));
}

}  // namespace
}  // namespace fulgur
