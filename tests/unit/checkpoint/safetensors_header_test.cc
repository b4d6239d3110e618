#include "checkpoint/safetensors_header.h"

#include <gtest/gtest.h>

#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

/// Header text and data, and what read_safetensors must say of them ("" for nothing), in the form of
/// summary().
struct Case {
  const char* label;
  std::string header;
  std::string data;
  std::string problems;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.label; }

std::string entry(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"dtype":"{}","shape":{},"data_offsets":{}}})", dtype, shape, offsets);
}

std::string one(std::string_view dtype, std::string_view shape, std::string_view offsets) {
  return fmt::format(R"({{"a":{}}})", entry(dtype, shape, offsets));
}

std::string two(std::string_view first_offsets, std::string_view second_offsets) {
  return fmt::format(R"({{"a":{},"b":{}}})", entry("U8", "[4]", first_offsets),
                     entry("U8", "[4]", second_offsets));
}

const std::string kFour(4, 'x');
const std::string kEight(8, 'x');

class SafetensorsHeader : public ::testing::TestWithParam<Case> {};

TEST_P(SafetensorsHeader, IsCheckedInFull) {
  const TemporaryFolder folder;
  write_bytes(folder / "x.safetensors", raw_safetensors(GetParam().header, GetParam().data));
  const auto problems = problems_of([&] { read_safetensors(folder / "x.safetensors"); });
  EXPECT_EQ(summary(problems), GetParam().problems) << (problems.empty() ? "" : describe(problems[0]));
  for (const Problem& problem : problems) EXPECT_EQ(problem.file, "x.safetensors");
}

INSTANTIATE_TEST_SUITE_P(
    Accepted, SafetensorsHeader,
    ::testing::Values(
        Case{"no tensors", "{}", "", ""}, Case{"padding", one("F32", "[1]", "[0,4]") + "   ", kFour, ""},
        Case{"a scalar", one("F32", "[]", "[0,4]"), kFour, ""},
        Case{"an empty tensor", one("F32", "[0,7]", "[0,0]"), "", ""},
        Case{"an empty tensor of many columns", one("F32", "[4611686018427387904,0]", "[0,0]"), "", ""},
        Case{"listed in another order than stored", two("[4,8]", "[0,4]"), kEight, ""},
        Case{"metadata", R"({"__metadata__":{"format":"pt"},"a":)" + entry("U8", "[4]", "[0,4]") + "}", kFour,
             ""},
        Case{"no metadata", R"({"__metadata__":null,"a":)" + entry("U8", "[4]", "[0,4]") + "}", kFour, ""},
        Case{"a dtype nobody knows, of whatever size", one("F4", "[4]", "[0,4]"), kFour, ""},
        Case{"an escaped name", R"({"\u0061":)" + entry("U8", "[4]", "[0,4]") + "}", kFour, ""}));

INSTANTIATE_TEST_SUITE_P(
    NotJson, SafetensorsHeader,
    ::testing::Values(
        Case{"empty", "", "", "bad_header"}, Case{"spaces", "    ", "", "bad_header"},
        Case{"a list", "[]", "", "bad_header"}, Case{"a byte order mark", "\xef\xbb\xbf{}", "", "bad_header"},
        Case{"cut", R"({"a":{"dtype")", "", "bad_header"}, Case{"two objects", "{}{}", "", "bad_header"},
        Case{"text behind a NUL", std::string("{}\0{", 4), "", "bad_header"},
        Case{"padded with NULs", std::string("{}\0\0", 4), "", "bad_header"},
        Case{"not UTF-8", "{\"\xff\":" + entry("U8", "[4]", "[0,4]") + "}", kFour, "bad_header"},
        Case{"an overlong UTF-8 sequence", "{\"\xc0\x80\":" + entry("U8", "[4]", "[0,4]") + "}", kFour,
             "bad_header"},
        Case{"half a surrogate pair", R"({"\ud800":)" + entry("U8", "[4]", "[0,4]") + "}", kFour,
             "bad_header"},
        Case{"a comment", "{/**/}", "", "bad_header"},
        Case{"a trailing comma", "{\"a\":1,}", "", "bad_header a"},
        Case{"a number past a double", one("U8", "[1e400]", "[0,4]"), kFour, "bad_header"}));

INSTANTIATE_TEST_SUITE_P(
    Duplicates, SafetensorsHeader,
    ::testing::Values(
        Case{"of a tensor",
             fmt::format(R"({{"a":{0},"b":{1},"a":{0}}})", entry("U8", "[4]", "[0,4]"),
                         entry("U8", "[4]", "[4,8]")),
             kEight, "bad_header a"},
        Case{"of a tensor, one escaped",
             fmt::format(R"({{"a":{},"\u0061":{}}})", entry("U8", "[4]", "[0,4]"),
                         entry("U8", "[4]", "[4,8]")),
             kEight, "bad_header a"},
        Case{"of dtype", R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", kFour,
             "bad_header a"},
        Case{"of shape", R"({"a":{"dtype":"U8","shape":[4],"shape":[4],"data_offsets":[0,4]}})", kFour,
             "bad_header a"},
        Case{"of data_offsets",
             R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"data_offsets":[0,4]}})", kFour,
             "bad_header a"},
        Case{"of __metadata__", R"({"__metadata__":{},"__metadata__":{}})", "", "bad_header"},
        Case{"of __metadata__ that is null", R"({"__metadata__":null,"__metadata__":{}})", "", "bad_header"},
        Case{"in __metadata__", R"({"__metadata__":{"x":"1","x":"2"}})", "", "bad_header"}));

INSTANTIATE_TEST_SUITE_P(
    Fields, SafetensorsHeader,
    ::testing::Values(Case{"no dtype", R"({"a":{"shape":[4],"data_offsets":[0,4]}})", kFour, "bad_header a"},
                      Case{"no shape", R"({"a":{"dtype":"U8","data_offsets":[0,4]}})", kFour, "bad_header a"},
                      Case{"no data_offsets", R"({"a":{"dtype":"U8","shape":[4]}})", kFour, "bad_header a"},
                      Case{"a field too many",
                           R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"stride":[1]}})", kFour,
                           "bad_header a"},
                      Case{"a tensor that is a number", R"({"a":5})", "", "bad_header a"},
                      Case{"a tensor that is a list", R"({"a":[]})", "", "bad_header a"},
                      Case{"a tensor that is null", R"({"a":null})", "", "bad_header a"},
                      Case{"a dtype that is a number",
                           R"({"a":{"dtype":3,"shape":[4],"data_offsets":[0,4]}})", kFour, "bad_header a"},
                      Case{"a shape that is a string", one("U8", R"("4")", "[0,4]"), kFour, "bad_header a"},
                      Case{"a shape of objects", one("U8", "[{}]", "[0,4]"), kFour, "bad_header a"},
                      Case{"a shape of lists", one("U8", "[[4]]", "[0,4]"), kFour, "bad_header a"},
                      Case{"a shape of strings", one("U8", R"(["4"])", "[0,4]"), kFour, "bad_header a"},
                      Case{"one offset", one("U8", "[4]", "[4]"), kFour, "bad_header a"},
                      Case{"three offsets", one("U8", "[4]", "[0,4,4]"), kFour, "bad_header a"},
                      Case{"offsets that are an object", one("U8", "[4]", "{}"), kFour, "bad_header a"},
                      Case{"metadata of nulls", R"({"__metadata__":{"x":null}})", "", "bad_header"},
                      Case{"metadata that is a list", R"({"__metadata__":[]})", "", "bad_header"},
                      Case{"metadata of numbers", R"({"__metadata__":{"x":1}})", "", "bad_header"},
                      Case{"metadata that is a string", R"({"__metadata__":"x"})", "", "bad_header"}));

INSTANTIATE_TEST_SUITE_P(
    Numbers, SafetensorsHeader,
    ::testing::Values(
        Case{"a negative dimension", one("U8", "[-4]", "[0,4]"), kFour, "bad_header a"},
        Case{"two negative dimensions", one("U8", "[-2,-2]", "[0,4]"), kFour, "bad_header a"},
        Case{"minus zero", one("U8", "[-0]", "[0,0]"), "", "bad_header a"},
        Case{"a fraction", one("U8", "[4.0]", "[0,4]"), kFour, "bad_header a"},
        Case{"an exponent", one("U8", "[4e0]", "[0,4]"), kFour, "bad_header a"},
        Case{"a dimension of 2^63", one("U8", "[9223372036854775808]", "[0,4]"), kFour, "bad_header a"},
        Case{"a dimension of 2^64", one("U8", "[18446744073709551616]", "[0,4]"), kFour, "bad_header a"},
        Case{"a product that overflows before a 0, as the safetensors library has it",
             one("U8", "[4611686018427387904,4,0]", "[0,0]"), "", "bad_header a"},
        Case{"a product of 2^64 + 4", one("U8", "[4611686018427387905,4]", "[0,4]"), kFour, "bad_header a"},
        Case{"a product that overflows by its width", one("F32", "[4611686018427387905]", "[0,4]"), kFour,
             "bad_header a"},
        Case{"33 dimensions",
             one("U8", fmt::format("[{}]", fmt::join(std::vector<int>(33, 1), ",")), "[0,1]"), "x",
             "bad_header a"},
        Case{"a negative offset", one("U8", "[4]", "[-4,0]"), kFour, "bad_header a"},
        Case{"an offset past 2^64", one("U8", "[4]", "[0,18446744073709551620]"), kFour, "bad_header a"},
        Case{"an end before its begin", one("U8", "[4]", "[4,0]"), kFour, "bad_header a"},
        Case{"fewer bytes than the shape takes", one("F32", "[2]", "[0,4]"), kFour, "bad_header a"},
        Case{"more bytes than the shape takes", one("BF16", "[1]", "[0,4]"), kFour, "bad_header a"}));

INSTANTIATE_TEST_SUITE_P(
    Layout, SafetensorsHeader,
    ::testing::Values(
        Case{"an overlap", two("[0,4]", "[2,6]"), std::string(6, 'x'), "bad_header b"},
        Case{"the same range twice", two("[0,4]", "[0,4]"), kFour, "bad_header b"},
        Case{"a hole", two("[0,4]", "[5,9]"), std::string(9, 'x'), "bad_header b"},
        Case{"a hole before the first", one("U8", "[4]", "[4,8]"), kEight, "bad_header a"},
        Case{"an empty tensor inside another",
             fmt::format(R"({{"a":{},"b":{}}})", entry("U8", "[4]", "[0,4]"), entry("U8", "[0]", "[2,2]")),
             kFour, "bad_header b"},
        Case{"bytes left over", one("U8", "[4]", "[0,4]"), kEight, "bad_header"},
        Case{"bytes of no tensor at all", "{}", "x", "bad_header"},
        Case{"a tensor past the end", two("[0,4]", "[4,8]"), std::string(7, 'x'), "truncated_file b"},
        Case{"a tensor at the end of the address space", one("F4", "[4]", "[0,18446744073709551615]"), kFour,
             "truncated_file a"}));

INSTANTIATE_TEST_SUITE_P(Together, SafetensorsHeader,
                         ::testing::Values(Case{
                             "every fault of one file is reported",
                             fmt::format(R"({{"a":{},"b":{},"c":{}}})", entry("F32", "[2]", "[0,4]"),
                                         entry("U8", "[4]", "[6,10]"), entry("U8", "[4]", "[8,12]")),
                             std::string(13, 'x'), "bad_header\nbad_header a\nbad_header b\nbad_header c"}));

TEST(SafetensorsFile, ShorterThanItsLengthFieldIsTruncated) {
  const TemporaryFolder folder;
  for (size_t size = 0; size < 8; ++size) {
    write_bytes(folder / "x.safetensors", std::string(size, '\0'));
    const auto problems = problems_of([&] { read_safetensors(folder / "x.safetensors"); });
    ASSERT_EQ(summary(problems), "truncated_file");
    EXPECT_EQ(problems[0].expected, "8 bytes");
    EXPECT_EQ(problems[0].found, fmt::format("{} bytes", size));
  }
}

TEST(SafetensorsFile, WhoseHeaderIsLongerThanTheFileIsTruncated) {
  const TemporaryFolder folder;
  const std::string whole = raw_safetensors("{}");
  write_bytes(folder / "x.safetensors", whole.substr(0, whole.size() - 1));
  const auto problems = problems_of([&] { read_safetensors(folder / "x.safetensors"); });
  ASSERT_EQ(summary(problems), "truncated_file");
  EXPECT_EQ(problems[0].expected, "10 bytes");
  EXPECT_EQ(problems[0].found, "9 bytes");
}

TEST(SafetensorsFile, WithAHeaderAboveTheCapIsBadEvenIfItIsTruncatedToo) {
  const TemporaryFolder folder;
  for (const uint64_t length : {uint64_t{100'000'001}, ~uint64_t{0}, uint64_t{1} << 63}) {
    write_bytes(folder / "x.safetensors",
                std::string(reinterpret_cast<const char*>(&length), sizeof(length)));
    EXPECT_EQ(summary(problems_of([&] { read_safetensors(folder / "x.safetensors"); })), "bad_header");
  }
  const uint64_t at_the_cap = 100'000'000;
  write_bytes(folder / "x.safetensors",
              std::string(reinterpret_cast<const char*>(&at_the_cap), sizeof(at_the_cap)));
  EXPECT_EQ(summary(problems_of([&] { read_safetensors(folder / "x.safetensors"); })), "truncated_file");
}

TEST(SafetensorsFile, NestedAMillionDeepIsRefusedWithoutAStackOverflow) {
  const TemporaryFolder folder;
  for (const std::string& opener : {std::string("["), std::string("{\"a\":")}) {
    std::string deep = R"({"a":{"dtype":"U8","shape":)";
    for (int i = 0; i < 1'000'000; ++i) deep += opener;
    write_bytes(folder / "x.safetensors", raw_safetensors(deep));
    EXPECT_EQ(summary(problems_of([&] { read_safetensors(folder / "x.safetensors"); })), "bad_header a");
  }
}

TEST(SafetensorsFile, DamagedAllOverIsReportedInFewWords) {
  std::string header = "{";
  for (int i = 0; i < 20'000; ++i) {
    header += fmt::format(R"({}"t{}":{})", i == 0 ? "" : ",", i, entry("U8", "[4]", "[3,1]"));
  }
  header += "}";
  const TemporaryFolder folder;
  write_bytes(folder / "x.safetensors", raw_safetensors(header));
  const auto problems = problems_of([&] { read_safetensors(folder / "x.safetensors"); });
  EXPECT_LE(problems.size(), 1000U);
  EXPECT_LT(std::string(Error(problems).what()).size(), 10'000U);
}

TEST(SafetensorsFile, NamesInMessagesAreShortPlainText) {
  const TemporaryFolder folder;
  const std::string name = "\\u001b[31m" + std::string(100'000, 'n');
  write_bytes(folder / "x.safetensors", raw_safetensors("{\"" + name + "\":1}"));
  const auto problems = problems_of([&] { read_safetensors(folder / "x.safetensors"); });
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_LT(problems[0].message.size(), 500U);
  EXPECT_EQ(problems[0].message.find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace fulgur
