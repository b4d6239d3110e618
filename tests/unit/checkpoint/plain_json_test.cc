// The short way through JSON tells what the long way tells, or that it doesn't know.

#include "checkpoint/plain_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace fulgur {
namespace {

/// Every event as a word.
class Words : public nlohmann::json::json_sax_t {
 public:
  [[nodiscard]] const std::string& text() const { return text_; }
  bool null() override { return add("null"); }
  bool boolean(bool) override { return add("boolean"); }
  bool number_integer(int64_t value) override { return add("i" + std::to_string(value)); }
  bool number_unsigned(uint64_t value) override { return add("u" + std::to_string(value)); }
  bool number_float(double, const std::string& digits) override { return add("f" + digits); }
  bool string(std::string& value) override { return add("'" + value); }
  bool binary(nlohmann::json::binary_t&) override { return add("binary"); }
  bool start_object(size_t) override { return add("{"); }
  bool start_array(size_t) override { return add("["); }
  bool end_object() override { return add("}"); }
  bool end_array() override { return add("]"); }
  bool key(std::string& name) override { return add("#" + name); }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception&) override { return false; }

 private:
  bool add(const std::string& word) {
    text_ += word + " ";
    return true;
  }
  std::string text_;
};

const std::string kHeader =
    R"( {"__metadata__":{"format":"pt"}, "a.b" : {"dtype":"F8_E4M3","shape":[ ],"data_offsets":[0,)"
    "\n\t 9999999999999999999 ]},\r\"~ !#[]{}:,\":{},\"\":[[],[{}],[0,10]]} ";

TEST(PlainJson, TellsTheSameEvents) {
  ASSERT_TRUE(is_plain_json(kHeader));
  Words plain;
  EXPECT_TRUE(PlainJson(kHeader, plain).read());
  Words all;
  EXPECT_TRUE(nlohmann::json::sax_parse(kHeader, &all));
  EXPECT_EQ(plain.text(), all.text());
}

TEST(PlainJson, TakesNothingThatIsCutOrHasOneCharacterMoreThatMakesItNoJson) {
  for (size_t cut = 0; cut + 1 < kHeader.size(); ++cut)
    EXPECT_FALSE(is_plain_json(kHeader.substr(0, cut))) << cut;
  for (size_t i = 0; i <= kHeader.size(); ++i) {
    for (const char more : std::string_view("{}[],:\"0-\\\0\x80\n", 13)) {
      std::string text = kHeader;
      text.insert(i, 1, more);
      Words plain;
      Words all;
      if (!PlainJson(text, plain).read()) continue;
      EXPECT_TRUE(nlohmann::json::sax_parse(text, &all)) << text;
      EXPECT_EQ(plain.text(), all.text()) << text;
    }
  }
}

TEST(PlainJson, LeavesToOthersWhatItDoesNotKnow) {
  for (const char* text : {"",           " ",
                           "[-1]",       "[1.5]",
                           "[1e3]",      "[01]",
                           "[00]",       "[10000000000000000000]",
                           "[true]",     "[null]",
                           R"(["\n"])",  R"({"\u0061":1})",
                           "[\"\x7f\"]", "[\"\xc3\xa9\"]",
                           "[1] 2",      "[1]]",
                           "{\"a\" 1}",  "{\"a\":1,}",
                           "[1,]",       "{1:2}",
                           "[1 2]",      "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]"}) {
    EXPECT_FALSE(is_plain_json(text)) << text;
  }
}

}  // namespace
}  // namespace fulgur
