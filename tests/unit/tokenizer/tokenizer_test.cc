#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <filesystem>
#include <random>

#include "base/error.h"
#include "support/random_text.h"
#include "tiny_tokenizer.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& mini() {
  static const Tokenizer tokenizer =
      Tokenizer::load(std::filesystem::path(FULGUR_SOURCE_DIR) / "models/mini-v32");
  return tokenizer;
}

TEST(Tokenizer, ReadsMiniV32) {
  EXPECT_EQ(mini().bos(), 0);
  EXPECT_EQ(mini().eos(), 1);
  EXPECT_EQ(mini().num_ids(), 1272);
  EXPECT_EQ(mini().token_id("<\uFF5CUser\uFF5C>"), 1270);
  EXPECT_FALSE(mini().token_id("no such token"));
  EXPECT_TRUE(mini().is_special(0));
  EXPECT_FALSE(mini().is_special(1270));
}

TEST(Tokenizer, AddedTokensAreParsedOrStayTextWhateverTheirFlags) {
  const std::string text = "<\uFF5Cbegin\u2581of\u2581sentence\uFF5C>hi<\uFF5CUser\uFF5C>";
  const Ids parsed = mini().encode(text);
  EXPECT_EQ(parsed.front(), 0);
  EXPECT_EQ(parsed.back(), 1270);
  const Ids plain = mini().encode(text, {.parse_added_tokens = false});
  for (const int32_t id : plain) EXPECT_TRUE(id > 2 && id < 1270) << id;
  EXPECT_EQ(mini().decode(plain), text);
}

TEST(Tokenizer, EncodesNoMoreThanAsked) {
  const std::string text = "In the beginning God created the heaven and the earth.";
  const Ids whole = mini().encode(text);
  ASSERT_GT(whole.size(), 8U);
  for (size_t most = 0; most <= whole.size(); ++most) {
    const Ids some = mini().encode(text, {.most_ids = most});
    EXPECT_EQ(some.size() > most, whole.size() > most) << most;
    EXPECT_TRUE(std::equal(some.begin(), some.end(), whole.begin())) << most;
  }
}

TEST(Tokenizer, TellsHowLongATextOfSoManyIdsMayBe) {
  EXPECT_EQ(mini().most_bytes(3), 30U);  // its longest token of text has ten bytes
  Json nfc = tiny_tokenizer();
  const size_t plain = Tokenizer::load(write_tokenizer(nfc)).most_bytes(1);
  nfc["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(Tokenizer::load(write_tokenizer(nfc)).most_bytes(1), 3 * plain);
}

TEST(Tokenizer, SpecialTokensComeFromThePostProcessorOnDemand) {
  Ids expected = mini().encode("hi");
  expected.insert(expected.begin(), 0);
  EXPECT_EQ(mini().encode("hi", {.add_special = true}), expected);
}

TEST(Tokenizer, DecodingKeepsSpecialTokensUnlessAskedNotTo) {
  const Tokenizer tokenizer = Tokenizer::load(write_tokenizer(tiny_tokenizer()));
  const Ids ids = {258, 'h', 'i', 259};
  EXPECT_EQ(tokenizer.decode(ids), "<s>hi<u>");
  EXPECT_EQ(tokenizer.decode(ids, {.skip_special = true}), "hi<u>");
}

TEST(Tokenizer, AFileLoadsLikeItsFolderButKnowsNoBos) {
  const Json config = {{"bos_token", {{"content", "<s>"}}}, {"eos_token", "<u>"}};
  const std::string folder = write_tokenizer(tiny_tokenizer(), config);
  EXPECT_EQ(Tokenizer::load(folder).bos(), 258);
  EXPECT_EQ(Tokenizer::load(folder).eos(), 259);
  const Tokenizer file = Tokenizer::load(folder + "/tokenizer.json");
  EXPECT_FALSE(file.bos());
  EXPECT_EQ(file.encode("xabc<s>"), (Ids{'x', 257, 258}));
}

TEST(Tokenizer, AFolderMayBeWithoutOneButNotWithOneThatCantBeLookedAt) {
  const std::string folder = write_tokenizer(tiny_tokenizer());
  ASSERT_TRUE(Tokenizer::load_if_present(folder));
  std::filesystem::remove(folder + "/tokenizer.json");
  EXPECT_FALSE(Tokenizer::load_if_present(folder));
  std::filesystem::create_symlink("tokenizer.json", folder + "/tokenizer.json");
  EXPECT_THROW((void)Tokenizer::load_if_present(folder), Error);
}

TEST(Tokenizer, BothSpellingsOfMergesAreTheSame) {
  Json tokenizer = tiny_tokenizer();
  tokenizer["model"]["merges"] = {"#version: 0.2", "a b", "ab c"};
  EXPECT_EQ(Tokenizer::load(write_tokenizer(tokenizer)).encode("!abcab"), (Ids{'!', 257, 256}));
}

TEST(Tokenizer, TextThatIsNoUtf8IsRefusedByItsByte) {
  try {
    static_cast<void>(mini().encode("ab\xFF"));
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadRequest);
    EXPECT_NE(std::string(error.what()).find("byte 2 (0xff)"), std::string::npos) << error.what();
  }
}

TEST(Tokenizer, AnIdThatIsNotThereIsRefusedByNumber) {
  for (const int32_t id : {-1, 1272, INT32_MAX}) {
    try {
      static_cast<void>(mini().decode(Ids{5, id}));
      FAIL() << id << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadRequest);
      EXPECT_NE(std::string(error.what()).find(std::to_string(id)), std::string::npos) << error.what();
    }
  }
}

// utf8proc's own ordering of marks takes quadratic time: for these, hours.
TEST(Tokenizer, ManyMarksOutOfOrderAreNormalized) {
  Json tokenizer = tiny_tokenizer();
  tokenizer["normalizer"] = {{"type", "NFC"}};
  const int count = 200'000;
  std::string text = "a";
  for (int i = 0; i < count; ++i) text += "\u0301\u0323";
  // U+1EA1 (a with dot below, 3 bytes), the other dots, the acutes (2 bytes each).
  const size_t num_bytes = 3 + 2 * (count - 1) + 2 * count;
  EXPECT_EQ(Tokenizer::load(write_tokenizer(tokenizer)).encode(text).size(), num_bytes);
}

TEST(Tokenizer, GivesAnyTextBack) {
  EXPECT_TRUE(rc::check([] {
    const std::string text = *test::any_text();
    const std::vector<int32_t> ids = mini().encode(text, {.parse_added_tokens = *rc::gen::arbitrary<bool>()});
    RC_ASSERT(mini().decode(ids) == text);
    const size_t as_text = mini().encode(text, {.parse_added_tokens = false}).size();
    RC_ASSERT(text.size() <= mini().most_bytes(as_text));
    std::string pieces;
    for (const int32_t id : ids) pieces += mini().piece(id);
    RC_ASSERT(pieces == text);
    IncrementalDecoder decoder(mini());
    std::string streamed;
    for (const int32_t id : ids) streamed += decoder.push(id);
    RC_ASSERT(streamed + decoder.finish() == text);
  }));
}

TEST(IncrementalDecoder, NeverSplitsACharacterAndEqualsDecodeInTotal) {
  for (uint32_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Ids ids;
    for (int i = 0; i < 40; ++i) {
      if (random() % 2 == 0) {
        const Ids whole = mini().encode(random() % 2 == 0 ? "\U0001F600\u4E3B" : "\u00E9x");
        ids.insert(ids.end(), whole.begin(), whole.end());
      } else {
        ids.push_back(static_cast<int32_t>(random() % 1272));  // many of them a lone byte
      }
    }
    const DecodeOptions options{.skip_special = random() % 2 == 0};
    IncrementalDecoder decoder(mini(), options);
    std::string total;
    for (const int32_t id : ids) {
      const std::string text = decoder.push(id);
      ASSERT_EQ(find_invalid_utf8(text), std::string::npos);
      total += text;
    }
    ASSERT_EQ(total + decoder.finish(), mini().decode(ids, options));
  }
}

TEST(IncrementalDecoder, GivesACharacterOutWithItsLastByte) {
  const Tokenizer tokenizer = Tokenizer::load(write_tokenizer(tiny_tokenizer()));
  IncrementalDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.push(0x9F), "");
  EXPECT_EQ(decoder.push(0x98), "");
  EXPECT_EQ(decoder.push(0x80), "\U0001F600");
  EXPECT_EQ(decoder.push(0xE4), "");
  EXPECT_EQ(decoder.push('x'), "\uFFFDx");
  EXPECT_EQ(decoder.push(0xE4), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

}  // namespace
}  // namespace fulgur
