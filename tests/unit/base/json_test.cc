#include "base/json.h"

#include <gtest/gtest.h>

namespace fulgur {
namespace {

std::string refusal_of(const std::string& text) {
  try {
    parse_json(text, ErrorKind::kBadRequest, "f.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadRequest);
    return error.what();
  }
  return "";
}

TEST(ParseJson, RefusesWhatStandsBehindANulByte) {
  using namespace std::string_literals;
  for (const std::string& text : {"[1]\0"s, "[1]\0[2]"s, "\0[1]"s, "[1,\0 2]"s, "\"a\0b\""s}) {
    EXPECT_NE(refusal_of(text).find("a NUL byte"), std::string::npos) << refusal_of(text);
  }
  EXPECT_EQ(refusal_of("[\"\\u0000\"]"), "");
}

TEST(ParseJson, TakesAHundredLevelsAndRefusesMoreHoweverMany) {
  const auto nested = [](size_t levels) { return std::string(levels, '[') + std::string(levels, ']'); };
  EXPECT_EQ(refusal_of(nested(100)), "");
  EXPECT_NE(refusal_of(nested(101)).find("100 levels"), std::string::npos);
  EXPECT_NE(refusal_of(nested(1'000'000)).find("100 levels"), std::string::npos);
}

TEST(ParseJson, NamesTheLineOnlyWhereThereIsMoreThanOne) {
  EXPECT_TRUE(refusal_of("[1,]").starts_with("f.json: Not valid JSON at column 4")) << refusal_of("[1,]");
  EXPECT_TRUE(refusal_of("[1,\n2,]").starts_with("f.json: Not valid JSON at line 2, column 3"));
}

}  // namespace
}  // namespace fulgur
