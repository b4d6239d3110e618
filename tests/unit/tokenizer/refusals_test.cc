// Files that are malformed or ask for what isn't there are refused with a sentence that names file, field and
// value.

#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <random>

#include "base/error.h"
#include "tiny_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace fulgur {
namespace {

constexpr ErrorKind kBad = ErrorKind::kBadTokenizer;
constexpr ErrorKind kUnsupported = ErrorKind::kUnsupported;

struct Case {
  const char* what;
  std::function<void(Json&)> damage;
  ErrorKind kind;
  const char* field;  // Problem::tensor
  const char* named;  // stands in the printed form
};

Json& vocab(Json& t) { return t["model"]["vocab"]; }
Json& merges(Json& t) { return t["model"]["merges"]; }
Json& added(Json& t, size_t i) { return t["added_tokens"][i]; }
Json& step(Json& t, size_t i) { return t["pre_tokenizer"]["pretokenizers"][i]; }
Json& pattern(Json& t) { return step(t, 0)["pattern"]; }

const Case kCases[] = {
    {"NoModel", [](Json& t) { t.erase("model"); }, kBad, "model", "missing"},
    {"NoVocab", [](Json& t) { t["model"].erase("vocab"); }, kBad, "model.vocab", "missing"},
    {"NoMerges", [](Json& t) { t["model"].erase("merges"); }, kBad, "model.merges", "missing"},
    {"NoAddedTokens", [](Json& t) { t.erase("added_tokens"); }, kBad, "added_tokens", "missing"},
    {"NoDecoder", [](Json& t) { t.erase("decoder"); }, kBad, "decoder", "missing"},
    {"NullDecoder", [](Json& t) { t["decoder"] = nullptr; }, kUnsupported, "decoder", "null"},
    {"TopIsAnArray", [](Json& t) { t = Json::array(); }, kBad, "", "object"},
    {"UnknownTopKey", [](Json& t) { t["turbo"] = 1; }, kUnsupported, "turbo", "turbo"},
    {"KeyOfControlCharacters",
     [](Json& t) {
       t["tur\rbo\x7f"] = {{"\x7f", 1}};
     },
     kUnsupported, "tur\\x0dbo\\x7f", R"(tur\x0dbo\x7f is {"\u007f":1})"},
    {"OtherVersion", [](Json& t) { t["version"] = "2.0"; }, kUnsupported, "version", "2.0"},
    {"Truncation",
     [](Json& t) {
       t["truncation"] = {{"max_length", 5}};
     },
     kUnsupported, "truncation", "max_length"},
    {"Padding", [](Json& t) { t["padding"] = Json::object(); }, kUnsupported, "padding", "{}"},
    {"OtherModel", [](Json& t) { t["model"]["type"] = "Unigram"; }, kUnsupported, "model.type", "Unigram"},
    {"Dropout", [](Json& t) { t["model"]["dropout"] = 0.5; }, kUnsupported, "model.dropout", "0.5"},
    {"DropoutText", [](Json& t) { t["model"]["dropout"] = "x"; }, kBad, "model.dropout", "number"},
    {"Prefix", [](Json& t) { t["model"]["continuing_subword_prefix"] = "##"; }, kUnsupported,
     "model.continuing_subword_prefix", "##"},
    {"Suffix", [](Json& t) { t["model"]["end_of_word_suffix"] = "</w>"; }, kUnsupported,
     "model.end_of_word_suffix", "</w>"},
    {"UnknownNumber", [](Json& t) { t["model"]["unk_token"] = 3; }, kBad, "model.unk_token", "string"},
    {"FallbackText", [](Json& t) { t["model"]["byte_fallback"] = "yes"; }, kBad, "model.byte_fallback",
     "yes"},
    {"IgnoreMergesNumber", [](Json& t) { t["model"]["ignore_merges"] = 1; }, kBad, "model.ignore_merges",
     "true or false"},
    {"ModelKey", [](Json& t) { t["model"]["scores"] = 1; }, kUnsupported, "model.scores", "scores"},
    {"VocabList",
     [](Json& t) {
       vocab(t) = {1, 2};
     },
     kBad, "model.vocab", "object"},
    {"IdText", [](Json& t) { vocab(t)["ab"] = "256"; }, kBad, "model.vocab[\"ab\"]", "256"},
    {"IdNegative", [](Json& t) { vocab(t)["ab"] = -1; }, kBad, "model.vocab[\"ab\"]", "-1"},
    {"IdFraction", [](Json& t) { vocab(t)["ab"] = 1.5; }, kBad, "model.vocab[\"ab\"]", "1.5"},
    {"IdHuge", [](Json& t) { vocab(t)["ab"] = UINT64_MAX; }, kBad, "model.vocab[\"ab\"]",
     "18446744073709551615"},
    {"IdTwice", [](Json& t) { vocab(t)["abc"] = 256; }, kBad, "model.vocab[\"abc\"]", "256"},
    {"ByteMissing", [](Json& t) { vocab(t).erase("\u0120"); }, kBad, "model.vocab", "0x20"},
    {"MergeOfUnknown", [](Json& t) { merges(t)[0][1] = "zz"; }, kBad, "model.merges[0]", "\"zz\""},
    {"MergeToUnknown", [](Json& t) { merges(t)[0][1] = "c"; }, kBad, "model.merges[0]", "\"ac\""},
    {"MergeOfThree", [](Json& t) { merges(t)[1].push_back("c"); }, kBad, "model.merges[1]", "two"},
    {"MergeTextOfThree",
     [](Json& t) {
       merges(t) = {"a b", "a b c"};
     },
     kBad, "model.merges[1]", "two"},
    {"MergeTextOfOne", [](Json& t) { merges(t) = Json::array({"ab"}); }, kBad, "model.merges[0]", "two"},
    {"MergesMixed", [](Json& t) { merges(t)[1] = "ab c"; }, kBad, "model.merges[1]", "first"},
    {"MergeOfNumbers", [](Json& t) { merges(t)[0][0] = 1; }, kBad, "model.merges[0]", "two"},
    {"AddedIdElsewhere", [](Json& t) { added(t, 0)["id"] = 300; }, kBad, "added_tokens[0].id", "258"},
    {"AddedIdTaken", [](Json& t) { added(t, 0)["id"] = 5; }, kBad, "added_tokens[0].id", "5"},
    {"AddedTwice", [](Json& t) { added(t, 1)["content"] = "<s>"; }, kBad, "added_tokens[1].content", "twice"},
    {"AddedEmpty", [](Json& t) { added(t, 1)["content"] = ""; }, kBad, "added_tokens[1].content", "empty"},
    {"AddedFlagMissing", [](Json& t) { added(t, 1).erase("lstrip"); }, kBad, "added_tokens[1].lstrip",
     "missing"},
    {"AddedFlagText", [](Json& t) { added(t, 1)["special"] = "no"; }, kBad, "added_tokens[1].special", "no"},
    {"AddedKey", [](Json& t) { added(t, 1)["weight"] = 2; }, kUnsupported, "added_tokens[1].weight",
     "weight"},
    {"OtherNormalizer",
     [](Json& t) {
       t["normalizer"] = {{"type", "Lowercase"}};
     },
     kUnsupported, "normalizer.type", "Lowercase"},
    {"NestedNormalizer",
     [](Json& t) {
       t["normalizer"] = {{"type", "Sequence"}, {"normalizers", Json::array({Json{{"type", "NFKC"}}})}};
     },
     kUnsupported, "normalizer.normalizers[0].type", "NFKC"},
    {"NoPreTokenizer", [](Json& t) { t["pre_tokenizer"] = nullptr; }, kUnsupported, "pre_tokenizer",
     "ByteLevel"},
    {"NoByteLevel", [](Json& t) { t["pre_tokenizer"]["pretokenizers"].erase(1); }, kUnsupported,
     "pre_tokenizer", "ByteLevel"},
    {"AfterByteLevel", [](Json& t) { t["pre_tokenizer"]["pretokenizers"].push_back(Json(step(t, 1))); },
     kUnsupported, "pre_tokenizer.pretokenizers[2].type", "after"},
    {"OtherPreTokenizer",
     [](Json& t) {
       step(t, 0) = {{"type", "Metaspace"}};
     },
     kUnsupported, "pre_tokenizer.pretokenizers[0].type", "Metaspace"},
    {"Removed", [](Json& t) { step(t, 0)["behavior"] = "Removed"; }, kUnsupported,
     "pre_tokenizer.pretokenizers[0].behavior", "Removed"},
    {"InvertMissing", [](Json& t) { step(t, 0).erase("invert"); }, kBad,
     "pre_tokenizer.pretokenizers[0].invert", "missing"},
    {"NoPattern", [](Json& t) { pattern(t) = Json::object(); }, kBad,
     "pre_tokenizer.pretokenizers[0].pattern", "Regex"},
    {"TwoPatterns", [](Json& t) { pattern(t)["String"] = "x"; }, kBad,
     "pre_tokenizer.pretokenizers[0].pattern", "String"},
    {"PatternText", [](Json& t) { pattern(t) = "x"; }, kBad, "pre_tokenizer.pretokenizers[0].pattern",
     "object"},
    {"BadRegex", [](Json& t) { pattern(t)["Regex"] = "(a"; }, kBad,
     "pre_tokenizer.pretokenizers[0].pattern.Regex", "(a"},
    {"ScriptInRegex", [](Json& t) { pattern(t)["Regex"] = R"(\p{Han}+)"; }, kUnsupported,
     "pre_tokenizer.pretokenizers[0].pattern.Regex", "Han"},
    {"OpenLookBehind", [](Json& t) { pattern(t)["Regex"] = "(?<=a*)b"; }, kUnsupported,
     "pre_tokenizer.pretokenizers[0].pattern.Regex", "lookbehind"},
    {"OtherProcessor",
     [](Json& t) {
       t["post_processor"] = {{"type", "RobertaProcessing"}};
     },
     kUnsupported, "post_processor.type", "Roberta"},
    {"OtherDecoder",
     [](Json& t) {
       t["decoder"] = {{"type", "Fuse"}};
     },
     kUnsupported, "decoder.type", "Fuse"},
};

class DamagedTokenizer : public testing::TestWithParam<Case> {};

TEST_P(DamagedTokenizer, IsRefusedByFileFieldAndValue) {
  Json tokenizer = tiny_tokenizer();
  GetParam().damage(tokenizer);
  try {
    Tokenizer::load(write_tokenizer(tokenizer));
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    const Problem& problem = error.problems().front();
    EXPECT_EQ(name(error.kind()), name(GetParam().kind)) << error.what();
    EXPECT_EQ(problem.file, "tokenizer.json");
    EXPECT_EQ(problem.tensor, GetParam().field);
    EXPECT_NE(std::string(error.what()).find(GetParam().named), std::string::npos) << error.what();
    EXPECT_TRUE(problem.message.ends_with('.')) << problem.message;
    EXPECT_FALSE(problem.expected.empty() || problem.found.empty() || problem.todo.empty()) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Each, DamagedTokenizer, testing::ValuesIn(kCases),
                         [](const auto& one) { return std::string(one.param.what); });

TEST(TokenizerFile, TemplatesNameOnlyTokensThatAreThere) {
  const auto with_single = [](const Json& single, const Json& tokens) {
    Json tokenizer = tiny_tokenizer();
    tokenizer["post_processor"] = {{"type", "TemplateProcessing"},
                                   {"single", single},
                                   {"pair", Json::array()},
                                   {"special_tokens", tokens}};
    return write_tokenizer(tokenizer);
  };
  const auto piece = [](const char* kind, const char* id) {
    return Json{{kind, {{"id", id}, {"type_id", 0}}}};
  };
  const auto token = [](int id) {
    return Json{{"b", {{"id", "b"}, {"ids", Json::array({id})}, {"tokens", Json::array({"b"})}}}};
  };
  const Json begin = Json::array({piece("SpecialToken", "b"), piece("Sequence", "A")});
  const Tokenizer good = Tokenizer::load(with_single(begin, token(258)));
  EXPECT_EQ(good.encode("x", {.add_special = true}), (std::vector<int32_t>{258, 'x'}));
  EXPECT_THROW(Tokenizer::load(with_single(begin, token(260))), Error);
  EXPECT_THROW(Tokenizer::load(with_single(begin, Json::object())), Error);
  EXPECT_THROW(Tokenizer::load(with_single(Json::array({piece("Sequence", "B")}), Json::object())), Error);
  EXPECT_THROW(Tokenizer::load(with_single(Json::array({piece("Other", "A")}), Json::object())), Error);
}

TEST(TokenizerFile, ItsConfigNamesTokensThatAreThere) {
  for (const Json& bos : {Json("<nowhere>"), Json(5), Json{{"text", "x"}}}) {
    try {
      Tokenizer::load(write_tokenizer(tiny_tokenizer(), {{"bos_token", bos}}));
      FAIL() << bos << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kBad);
      EXPECT_EQ(error.problems().front().file, "tokenizer_config.json");
    }
  }
}

TEST(TokenizerFile, ThatIsMissingIsAnIoError) {
  try {
    Tokenizer::load(testing::TempDir() + "/no/such/folder");
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIoError);
  }
}

// Cut and overwritten at random, a file is refused or read; it never crashes (the sanitizers watch).
TEST(TokenizerFile, DamagedAtRandomNeverCrashes) {
  Json tokenizer = tiny_tokenizer();
  tokenizer["normalizer"] = {{"type", "NFC"}};
  const std::string folder = write_tokenizer(tokenizer);
  const std::string whole = tokenizer.dump();
  int refused = 0;
  for (uint32_t seed = 1; seed <= 400; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    std::string text = whole;
    for (uint32_t i = random() % 4; i > 0; --i) text[random() % text.size()] = static_cast<char>(random());
    if (random() % 4 == 0) text.resize(random() % text.size());
    std::ofstream(folder + "/tokenizer.json") << text;
    try {
      static_cast<void>(Tokenizer::load(folder).encode("abc <s>"));
    } catch (const Error& error) {
      ASSERT_STRNE(error.what(), "");
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace fulgur
