#include "tokenizer/set_pattern.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace fulgur {
namespace {

ErrorKind kind_of_refusal(const std::string& pattern, const std::string& named) {
  try {
    parse_regex(pattern);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
    return error.kind();
  }
  ADD_FAILURE() << pattern << " was accepted";
  return ErrorKind::kIoError;
}

TEST(SetPattern, RefusesByNameWhatItDoesNotSupport) {
  // The part as it is quoted in the message.
  const std::pair<const char*, const char*> cases[] = {
      {"a^", "\"^\""},
      {"a$", "\"$\""},
      {R"(\bx)", R"("\\b")"},
      {R"(\p{Han})", R"("\\p{Han}")"},
      {R"(\pL)", R"("\\p")"},
      {"(?<n>a)", "\"(?<\""},
      {"(?i)a", "\"(?i\""},
      {"(?#x)", "\"(?#\""},
      {"[[:alpha:]]", "\"[:\""},
      {"[a&&b]", "\"&&\""},
      {"[]a]", "\"[]\""},
      {R"([\d-x])", R"("\\d-")"},
      {"a{x}", "\"{x}\""},
      {"a{2}?", "\"{2}?\""},
      {"a**", "\"**\""},
      {"(?=a)*", "\"*\""},
      {R"(\1)", R"("\\1")"},
      {R"(\xFF)", R"("\\xFF")"},
      {"(?i:ss)", "\"ss\""},
      {"(?i:\u00E9)", "\"\u00E9\""},
      {"(?i:[^a])", "\"[^\""},
      {R"((?i:\p{L}))", R"("\\p{L}")"},
      {R"((?i:[\s]))", R"("\\s")"},
      {R"(\x{110000})", "110000"},
      {R"(\h)", R"("\\h")"},
  };
  for (const auto& [pattern, named] : cases) {
    EXPECT_EQ(name(kind_of_refusal(pattern, named)), name(ErrorKind::kUnsupported)) << pattern;
  }
}

TEST(SetPattern, RefusesWhatIsNoRegex) {
  for (const char* pattern : {"(", ")", "a)", "(?:a", "[a", "[z-a]", "*a", "a|+", R"(a\)", "a{3,2}",
                              "a{99999}", R"(\x{12)", R"(\u12)", "[a-", "[^"}) {
    EXPECT_EQ(name(kind_of_refusal(pattern, "regex")), name(ErrorKind::kBadTokenizer)) << pattern;
  }
}

TEST(SetPattern, RefusesGroupsNestedTooDeepInsteadOfOverflowing) {
  EXPECT_EQ(kind_of_refusal(std::string(1'000'000, '('), "too deep"), ErrorKind::kBadTokenizer);
}

}  // namespace
}  // namespace fulgur
