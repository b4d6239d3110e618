// What clients may do to an engine that few do.

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "engine_support.h"
#include "fulgur/engine.h"
#include "model/load.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur {
namespace {

constexpr int kPages = 16;

class EngineEdges : public testing::TestWithParam<int> {
 protected:
  static const LoadedModel& model() {
    static const LoadedModel loaded = load_model(golden("glm-bf16"), LoadOptions{.mtp = true}, 1);
    return loaded;
  }
  static std::unique_ptr<Engine> engine(int num_pages = kPages) {
    return std::make_unique<Engine>(model(), nullptr,
                                    RunnerOptions{.num_pages = num_pages, .num_drafts = GetParam()},
                                    SchedulerOptions{.num_pages = num_pages, .step_tokens = 48});
  }
  Request request(int64_t prompt, int64_t max_tokens) {
    return {.prompt = random_tokens(random_, prompt, model().config.vocab_size),
            .max_tokens = max_tokens,
            .ignore_end_tokens = true};
  }

  std::mt19937 random_{11};
};

TEST_P(EngineEdges, TakesRequestsFromACallback) {
  const auto one = engine();
  const Request next = request(30, 6);
  const std::vector<int32_t> expected = one->submit(next).wait().ids;
  Request first = request(20, 4);
  std::promise<Generation> submitted;
  first.on_token = [&, calls = 0](const GeneratedToken&) mutable {
    if (calls++ == 1) submitted.set_value(one->submit(next));
  };
  EXPECT_EQ(one->submit(first).wait().ids.size(), 4U);
  EXPECT_EQ(submitted.get_future().get().wait().ids, expected);
}

TEST_P(EngineEdges, RunsAPromptAloneWhereNoTokenIsWanted) {
  const auto one = engine();
  Request r = request(130, 0);
  r.on_token = [](const GeneratedToken&) { ADD_FAILURE() << "a token that nobody asked for"; };
  const Completion completion = one->submit(r).wait();
  EXPECT_TRUE(completion.ids.empty());
  EXPECT_EQ(completion.finish, FinishReason::kLength);
  EXPECT_EQ(completion.drafted, 0);
  int64_t rows = 0;
  r.on_prompt_logits = [&](int64_t first, int64_t count, const float*) {
    EXPECT_EQ(first, rows);
    rows += count;
  };
  one->submit(r).wait();
  EXPECT_EQ(rows, 130);
}

TEST_P(EngineEdges, GivesTheDrawnTokensLogprobAloneWhereNoOthersAreWanted) {
  const auto one = engine();
  Request r = request(20, 8);
  r.num_logprobs = 3;
  std::vector<double> wanted;
  r.on_token = [&](const GeneratedToken& token) { wanted.push_back(token.logprob.value()); };
  one->submit(r).wait();
  r.num_logprobs = 0;
  std::vector<double> found;
  r.on_token = [&](const GeneratedToken& token) {
    found.push_back(token.logprob.value());
    EXPECT_TRUE(token.likeliest.empty());
  };
  one->submit(r).wait();
  EXPECT_EQ(found, wanted);
}

TEST_P(EngineEdges, EndsWithWhatItsPromptsCallbackThrewOnceWhateverTheCompany) {
  const auto one = engine();
  for (const int others : {0, 1, 3}) {
    SCOPED_TRACE(others);
    int calls = 0;
    int throws_from = 2;
    std::vector<Request> all{request(100, 4)};  // of several chunks
    all[0].on_prompt_logits = [&](int64_t, int64_t, const float*) {
      if (++calls >= throws_from) throw std::runtime_error("disk full");
    };
    for (int i = 0; i < others; ++i) all.push_back(request(20 + i, 4));
    std::vector<Generation> generations = one->submit_all(all);
    EXPECT_THROW(generations[0].wait(), std::runtime_error);
    EXPECT_EQ(calls, 2);
    for (int i = 1; i <= others; ++i) EXPECT_EQ(generations[i].wait().ids.size(), 4U);

    const auto steps = [&] {
      const uint64_t before = one->runner().model_time().steps();
      for (Generation& generation : one->submit_all({all[0], request(20, 1)})) {
        try {
          generation.wait();
        } catch (const std::runtime_error&) {
        }
      }
      return one->runner().model_time().steps() - before;
    };
    calls = 0;
    throws_from = 1000;
    const uint64_t whole = steps();
    calls = 0;
    throws_from = 3;  // of 48, 48 and 4 rows: the other one is in that step
    EXPECT_LE(steps(), whole);
  }
}

TEST_P(EngineEdges, DrawsTheSameFromAdjustedLogitsWhereTheModelsOwnAreWantedToo) {
  const auto one = engine();
  Request r = request(20, 12);
  r.sampling = {.temperature = 1.5F, .seed = 5, .repetition_penalty = 3, .logit_bias = {{7, 2.0F}}};
  const std::vector<int32_t> drawn = one->submit(r).wait().ids;
  r.num_logprobs = 2;
  std::vector<Request> all{r, request(30, 12), r};
  all[1].num_logprobs = 1;
  std::vector<Generation> generations = one->submit_all(all);
  EXPECT_EQ(generations[0].wait().ids, drawn);
  EXPECT_EQ(generations[2].wait().ids, drawn);
  while (const auto token = generations[0].next()) {
    ASSERT_EQ(token->likeliest.size(), 2U);
    EXPECT_GE(token->likeliest.front().logprob, token->likeliest.back().logprob);
    EXPECT_LE(*token->logprob, token->likeliest.front().logprob);
  }
}

/// The last token of a prompt is always computed, so a page that ends with it is not taken.
TEST_P(EngineEdges, TakesAPrefixThatEndsWithAPageAndSaysTheSame) {
  for (const int64_t prompt : {63, 64, 65, 127, 128, 129, 192}) {
    SCOPED_TRACE(prompt);
    const auto one = engine();
    const Request r = request(prompt, 12);
    const Completion first = one->submit(r).wait();
    const Completion second = one->submit(r).wait();
    EXPECT_EQ(second.cached_tokens, (prompt - 1) / kPageTokens * kPageTokens);
    EXPECT_EQ(second.ids, first.ids);
  }
}

TEST_P(EngineEdges, FillsItsLastPageAndRefusesATokenMore) {
  const auto one = engine(2);
  const Request r = request(100, 2 * kPageTokens - 100 + 1);  // the last token is never run
  const auto large = engine();
  EXPECT_EQ(one->submit(r).wait().ids, large->submit(r).wait().ids);
  EXPECT_THROW(one->submit(request(100, 2 * kPageTokens - 100 + 2)), Error);
}

TEST_P(EngineEdges, EndsThoseWhoWaitWhenItIsDestroyed) {
  auto one = engine();
  std::vector<Generation> generations;
  for (int i = 0; i < 20; ++i) generations.push_back(one->submit(request(30, 100 + i)));
  std::vector<std::thread> waiting;
  for (Generation& generation : generations) {
    waiting.emplace_back([&generation] {
      while (generation.next()) continue;
      EXPECT_NE(generation.wait().finish, FinishReason::kStop);
    });
  }
  one.reset();
  for (std::thread& thread : waiting) thread.join();
}

TEST_P(EngineEdges, EndsTheProcessWithASentenceWhereItIsDestroyedFromItsCallback) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto destroy_from_callback = [&] {
    auto one = engine();
    Request r = request(5, 4);
    r.on_token = [&](const GeneratedToken&) { one.reset(); };
    one->submit(r).wait();
  };
  EXPECT_DEATH(destroy_from_callback(), "destroyed from one of its callbacks");
}

TEST_P(EngineEdges, KeepsNothingForDraftsOfTextsThatHaveEndedHoweverTheyDid) {
  const auto one = engine();
  one->submit(request(20, 4)).wait();
  Request thrown = request(9, 4);
  thrown.on_token = [](const GeneratedToken&) { throw std::runtime_error("enough"); };
  EXPECT_THROW(one->submit(thrown).wait(), std::runtime_error);
  Generation cancelled = one->submit(request(9, 500));
  cancelled.next();
  cancelled.cancel();
  cancelled.wait();
  Request last = request(20, 1);
  std::optional<size_t> kept;  // on the engine's thread, where the others have gone by then
  last.on_token = [&](const GeneratedToken&) { kept = one->runner().num_texts(); };
  one->submit(last).wait();
  EXPECT_EQ(kept, GetParam() > 0 ? 1U : 0U) << "its own";
}

TEST_P(EngineEdges, RunsBesideAnotherOverTheSameModel) {
  const auto one = engine();
  const auto other = engine();
  std::vector<Request> all;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 6; ++i) {
    all.push_back(request(20 + 13 * i, 20));
    expected.push_back(one->submit(all.back()).wait().ids);
  }
  std::vector<Generation> here = one->submit_all(all);
  std::vector<Generation> there = other->submit_all(all);
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(here[i].wait().ids, expected[i]);
    EXPECT_EQ(there[i].wait().ids, expected[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Drafts, EngineEdges, testing::Values(0, 2));

/// Says the bytes of "é" in turn: each is penalized once it was said, and the other is then the likelier.
class StopStrings : public testing::Test {
 protected:
  StopStrings() {
    const std::string folder = FULGUR_SOURCE_DIR "/models/mini-v32";
    const std::unique_ptr<Tokenizer> tokenizer = std::make_unique<Tokenizer>(Tokenizer::load(folder));
    for (int32_t id = 0; id < tokenizer->num_ids(); ++id) {
      const std::string text = tokenizer->decode(std::vector<int32_t>{id});
      if (text == "\xEF\xBF\xBD") halves_.push_back(id);
    }
    for (const int32_t first : halves_) {
      for (const int32_t second : halves_) {
        if (tokenizer->decode(std::vector<int32_t>{first, second}) == "é") pair_ = {first, second};
      }
    }
  }
  Completion say(std::vector<std::string> stop, int64_t max_tokens) {
    return engine_
        .submit({.prompt = engine_.encode("In the beginning"),
                 .max_tokens = max_tokens,
                 .sampling = {.presence_penalty = 60,
                              .logit_bias = {{pair_->first, 100.0F}, {pair_->second, 80.0F}}},
                 .ignore_end_tokens = true,
                 .stop = std::move(stop)})
        .wait();
  }

  std::vector<int32_t> halves_;
  std::optional<std::pair<int32_t, int32_t>> pair_;
  Engine engine_{FULGUR_SOURCE_DIR "/models/mini-v32", {.threads = 1, .cache_tokens = 256}};
};

TEST_F(StopStrings, AreFoundWhereACharacterComesInTwoTokens) {
  ASSERT_TRUE(pair_);
  EXPECT_EQ(say({}, 2).text, "é");
  for (const char* half : {"\xC3", "\xA9"}) EXPECT_THROW((void)say({half}, 8), Error);
  const Completion stopped = say({"é"}, 8);
  EXPECT_EQ(stopped.text, "");
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  EXPECT_EQ(stopped.ids, (std::vector{pair_->first, pair_->second}));
  // Half a character at the end is shown as one.
  EXPECT_EQ(say({"é!"}, 2).text, "é");
  EXPECT_EQ(say({"é"}, 1).text, "\xEF\xBF\xBD");
}

TEST_F(StopStrings, MayBeTheWholeText) {
  Request r{.prompt = engine_.encode("In the beginning"), .max_tokens = 12};
  const Completion whole = engine_.submit(r).wait();
  r.stop = {whole.text};
  const Completion stopped = engine_.submit(r).wait();
  EXPECT_EQ(stopped.text, "");
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  r.stop = {std::string(1 << 16, 'x'), whole.text + "!"};
  EXPECT_EQ(engine_.submit(r).wait().text, whole.text);
}

}  // namespace
}  // namespace fulgur
