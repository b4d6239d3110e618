#include "runtime/session.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/error.h"

namespace fulgur {
namespace {

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data" / name;
}

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return tokens;
}

/// All logits of the prompt, appended `chunk` tokens a call, in steps of `step` tokens.
std::vector<float> logits_of(Session& session, const std::vector<int32_t>& prompt, size_t chunk) {
  std::vector<float> all;
  const int sequence = session.open();
  for (size_t begin = 0; begin < prompt.size(); begin += chunk) {
    const Work work{.sequence = sequence,
                    .tokens = std::span(prompt).subspan(begin, std::min(chunk, prompt.size() - begin)),
                    .logits = Wanted::kAll};
    session.run(std::span(&work, 1), [&](int, int64_t first, Matrix<const float> rows) {
      EXPECT_EQ(static_cast<int64_t>(all.size()), first * rows.cols);
      all.insert(all.end(), rows.data, rows.data + rows.rows * rows.cols);
    });
  }
  session.close(sequence);
  return all;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class SessionBits : public testing::TestWithParam<std::tuple<std::string, Precision>> {
 protected:
  SessionBits() : model_(load_model(golden(std::get<0>(GetParam())), std::get<1>(GetParam()), 2)) {}
  SessionOptions options() const { return {.precision = std::get<1>(GetParam()), .cache_tokens = 1024}; }

  LoadedModel model_;
};

TEST_P(SessionBits, DontDependOnHowThePromptWasChunked) {
  const auto prompt = random_tokens(150, model_.config.vocab_size, 1);
  Session session(model_, options());
  const auto whole = logits_of(session, prompt, prompt.size());
  for (const size_t chunk : {1, 7, 64, 149})
    EXPECT_TRUE(same_bits(whole, logits_of(session, prompt, chunk))) << chunk;
  SessionOptions small_steps = options();
  small_steps.step_tokens = 33;
  Session other(model_, small_steps);
  EXPECT_TRUE(same_bits(whole, logits_of(other, prompt, prompt.size())));
}

TEST_P(SessionBits, DontDependOnTheNumberOfThreads) {
  const auto prompt = random_tokens(100, model_.config.vocab_size, 2);
  SessionOptions one = options();
  Session session(model_, one);
  const auto expected = logits_of(session, prompt, prompt.size());
  for (const int threads : {2, 3, 5}) {
    SessionOptions many = options();
    many.threads = threads;
    Session other(model_, many);
    EXPECT_TRUE(same_bits(expected, logits_of(other, prompt, prompt.size()))) << threads;
  }
}

TEST_P(SessionBits, DontDependOnTheProjectionMode) {
  const auto prompt = random_tokens(100, model_.config.vocab_size, 3);
  Session session(model_, options());
  const auto fused = logits_of(session, prompt, prompt.size());
  for (const IndexerProjection mode : {IndexerProjection::kSeparate, IndexerProjection::kOverlapped}) {
    session.set_projection(mode);
    EXPECT_TRUE(same_bits(fused, logits_of(session, prompt, prompt.size())));
  }
}

TEST_P(SessionBits, DontDependOnTheNeighboursInABatch) {
  Session session(model_, options());
  const std::vector<std::vector<int32_t>> prompts = {random_tokens(90, model_.config.vocab_size, 4),
                                                     random_tokens(3, model_.config.vocab_size, 5),
                                                     random_tokens(130, model_.config.vocab_size, 6)};
  std::vector<std::vector<float>> alone;
  for (const auto& prompt : prompts) alone.push_back(logits_of(session, prompt, prompt.size()));

  std::vector<int> sequences;
  std::vector<Work> works;
  for (const auto& prompt : prompts) {
    sequences.push_back(session.open());
    works.push_back({.sequence = sequences.back(), .tokens = prompt, .logits = Wanted::kAll});
  }
  std::vector<std::vector<float>> together(prompts.size());
  session.run(works, [&](int work, int64_t, Matrix<const float> rows) {
    auto& to = together[static_cast<size_t>(work)];
    to.insert(to.end(), rows.data, rows.data + rows.rows * rows.cols);
  });
  for (size_t i = 0; i < prompts.size(); ++i) EXPECT_TRUE(same_bits(alone[i], together[i])) << i;

  // Decoding side by side, too.
  const std::vector<int32_t> next = {1, 2, 3};
  std::vector<Work> steps;
  for (size_t i = 0; i < prompts.size(); ++i) {
    steps.push_back(
        {.sequence = sequences[i], .tokens = std::span(next).subspan(i, 1), .logits = Wanted::kLast});
  }
  std::vector<std::vector<float>> decoded(prompts.size());
  session.run(steps, [&](int work, int64_t, Matrix<const float> rows) {
    decoded[static_cast<size_t>(work)].assign(rows.data, rows.data + rows.cols);
  });
  for (const int sequence : sequences) session.close(sequence);
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::vector<int32_t> longer = prompts[i];
    longer.push_back(next[i]);
    const auto expected = logits_of(session, longer, longer.size());
    EXPECT_TRUE(same_bits({expected.end() - model_.config.vocab_size, expected.end()}, decoded[i])) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, SessionBits,
                         testing::Combine(testing::Values("v32-bf16", "glm-bf16", "v3-bf16"),
                                          testing::Values(Precision::kNative, Precision::kFull)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::ranges::replace(name, '-', '_');
                           return name + (std::get<1>(info.param) == Precision::kFull ? "_full" : "_native");
                         });

class SessionRooms : public testing::Test {
 protected:
  LoadedModel model_ = load_model(golden("v32-bf16"), Precision::kNative, 1);
};

TEST_F(SessionRooms, RefuseATokenOutsideTheVocabulary) {
  Session session(model_, {.cache_tokens = 64});
  const std::vector<int32_t> tokens = {5, 192};
  const Work work{.sequence = session.open(), .tokens = tokens};
  try {
    session.run(std::span(&work, 1));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadRequest);
    EXPECT_NE(std::string(error.what()).find("192"), std::string::npos);
  }
  EXPECT_EQ(session.length(work.sequence), 0);
}

TEST_F(SessionRooms, RefuseMoreTokensThanTheCachesHoldAndLeaveTheSequenceAsItWas) {
  Session session(model_, {.cache_tokens = 100});  // two pages
  const auto fits = random_tokens(128, 192, 1);
  const auto more = random_tokens(1, 192, 2);
  const int sequence = session.open();
  const Work first{.sequence = sequence, .tokens = fits};
  const Work second{.sequence = sequence, .tokens = more};
  session.run(std::span(&first, 1));
  EXPECT_THROW(session.run(std::span(&second, 1)), Error);
  EXPECT_EQ(session.length(sequence), 128);
}

TEST_F(SessionRooms, GiveThePagesOfAClosedSequenceToTheNext) {
  Session session(model_, {.cache_tokens = 128});
  const auto prompt = random_tokens(128, 192, 1);
  const auto first = logits_of(session, prompt, prompt.size());
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(same_bits(first, logits_of(session, prompt, 50)));
}

TEST_F(SessionRooms, DrawTheLargestLogitWhenGreedy) {
  Session session(model_, {.cache_tokens = 64});
  const auto prompt = random_tokens(20, 192, 9);
  const SamplingParams greedy;
  const Work work{.sequence = session.open(), .tokens = prompt, .logits = Wanted::kLast, .sampling = &greedy};
  int32_t best = -1;
  const auto drawn = session.run(std::span(&work, 1), [&](int, int64_t, Matrix<const float> rows) {
    best = static_cast<int32_t>(std::max_element(rows.data, rows.data + rows.cols) - rows.data);
  });
  EXPECT_EQ(drawn.front(), best);
}

}  // namespace
}  // namespace fulgur
