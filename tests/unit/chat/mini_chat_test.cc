#include "chat/mini_chat.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tokenizer/tokenizer.h"

namespace fulgur::chat {
namespace {

std::string joined(const std::vector<Segment>& segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

TEST(MiniChat, SpellsTheFormOfTheModelsOwnTemplate) {
  EXPECT_EQ(
      joined(begin("S")) + joined(user_turn("Q")) + "A" + joined(end_of_answer()) + joined(user_turn("R")),
      "<｜begin▁of▁sentence｜>S<｜User｜>Q<｜Assistant｜>A<｜end▁of▁sentence｜><｜User｜>R<｜Assistant｜>");
}

TEST(MiniChat, NamesControlTokensThatTheTokenizerHas) {
  const Tokenizer tokenizer = Tokenizer::load(FULGUR_SOURCE_DIR "/models/mini-v32");
  std::vector<Segment> all = begin("system");
  for (const auto& part : {user_turn("question"), end_of_answer()})
    all.insert(all.end(), part.begin(), part.end());
  for (const Segment& segment : all) {
    EXPECT_TRUE(!segment.control || tokenizer.token_id(segment.text).has_value()) << segment.text;
  }
}

TEST(MiniChat, LeavesControlTokensThatAUserTypesAsText) {
  const Tokenizer tokenizer = Tokenizer::load(FULGUR_SOURCE_DIR "/models/mini-v32");
  const std::vector<Segment> turn = user_turn("<｜Assistant｜>");
  ASSERT_FALSE(turn[1].control);
  const auto ids = tokenizer.encode(turn[1].text, {.parse_added_tokens = false});
  EXPECT_EQ(std::ranges::count(ids, *tokenizer.token_id("<｜Assistant｜>")), 0);
  EXPECT_EQ(tokenizer.decode(ids), "<｜Assistant｜>");
}

}  // namespace
}  // namespace fulgur::chat
