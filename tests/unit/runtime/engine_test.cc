#include "fulgur/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <random>
#include <stdexcept>

#include "base/error.h"
#include "engine_support.h"
#include "model/load.h"
#include "ops/embed.h"
#include "runtime/choose_backend.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"
#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

constexpr int32_t kPoison = 77;  // the token that a broken op can't stand

/// The kind of the Error that ended a request.
ErrorKind error_of(Generation generation) {
  try {
    generation.wait();
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "no error";
  return ErrorKind::kIoError;
}

class EngineTest : public testing::Test {
 protected:
  static const LoadedModel& model() {
    static const LoadedModel loaded = load_model(golden("v32-bf16"), Precision::kNative, 2);
    return loaded;
  }
  static int64_t vocab() { return model().config.vocab_size; }
  static Engine engine(const SchedulerOptions& options, const Backend* backend = nullptr) {
    return {model(), nullptr, {.threads = 1, .num_pages = options.num_pages, .backend = backend}, options};
  }
  /// Neither reads nor says kPoison.
  Request request(int64_t prompt, int64_t max_tokens) {
    return {.prompt = random_tokens(random_, prompt, kPoison),
            .max_tokens = max_tokens,
            .sampling = {.logit_bias = {{kPoison, -100.0F}}},
            .ignore_end_tokens = true};
  }

  std::mt19937 random_{3};
};

TEST_F(EngineTest, TakesAPromptsPrefixFromTheCache) {
  Engine cached = engine({.num_pages = 16});
  Request r = request(150, 10);
  const Completion first = cached.submit(r).wait();
  const Completion second = cached.submit(r).wait();
  EXPECT_EQ(first.cached_tokens, 0);
  EXPECT_EQ(second.cached_tokens, 128);
  EXPECT_EQ(first.ids, second.ids);
  r.prompt.insert(r.prompt.end(), first.ids.begin(), first.ids.end());
  r.prompt.resize(200, 5);
  EXPECT_EQ(cached.submit(r).wait().cached_tokens, 128);
  r.on_prompt_logits = [](int64_t, int64_t, const float*) {};
  EXPECT_EQ(cached.submit(r).wait().cached_tokens, 0);
}

TEST_F(EngineTest, HandsTokensOutOneByOneAndThenNothing) {
  Engine one = engine({.num_pages = 16});
  const Request r = request(20, 5);
  Generation generation = one.submit(r);
  std::vector<int32_t> ids;
  while (const auto token = generation.next()) ids.push_back(token->id);
  const Completion completion = generation.wait();
  EXPECT_EQ(ids, completion.ids);
  EXPECT_EQ(ids.size(), 5U);
  EXPECT_EQ(completion.finish, FinishReason::kLength);
  EXPECT_EQ(completion.prompt_tokens, 20);
  EXPECT_FALSE(generation.next());
}

TEST_F(EngineTest, EndsAtAStopTokenAndKeepsItAmongTheIds) {
  Engine one = engine({.num_pages = 16});
  Request r = request(20, 8);
  const std::vector<int32_t> all = one.submit(r).wait().ids;
  r.stop_tokens = {all[3]};
  const Completion completion = one.submit(r).wait();
  const auto end = std::ranges::find(all, all[3]) + 1;
  EXPECT_EQ(completion.ids, std::vector(all.begin(), end));
  EXPECT_EQ(completion.finish, FinishReason::kStop);
}

TEST_F(EngineTest, GivesLogprobsOfTheDrawnTokenAndTheLikeliest) {
  Engine one = engine({.num_pages = 16});
  Request r = request(20, 3);
  r.num_logprobs = static_cast<int>(vocab());
  Generation generation = one.submit(r);
  while (const auto token = generation.next()) {
    ASSERT_EQ(static_cast<int64_t>(token->likeliest.size()), vocab());
    EXPECT_EQ(token->likeliest.front().id, token->id);  // greedy
    EXPECT_EQ(token->likeliest.front().logprob, token->logprob);
    double sum = 0;
    for (const TokenLogprob& likely : token->likeliest) sum += std::exp(likely.logprob);
    EXPECT_NEAR(sum, 1, 1e-12 * static_cast<double>(vocab()));
  }
}

TEST_F(EngineTest, DrawsATokenWhoseBiasIsLargeAndReportsItsOwnLogprob) {
  Engine one = engine({.num_pages = 16});
  Request r = request(20, 3);
  r.num_logprobs = 1;
  r.sampling.logit_bias = {{11, 100.0F}};
  Generation generation = one.submit(r);
  while (const auto token = generation.next()) {
    EXPECT_EQ(token->id, 11);
    EXPECT_NE(token->likeliest.front().id, 11);
    EXPECT_LT(*token->logprob, token->likeliest.front().logprob);
  }
}

TEST_F(EngineTest, PenalizesTokensOfTheText) {
  Engine one = engine({.num_pages = 16});
  Request r = request(20, 60);
  const auto distinct = [](std::vector<int32_t> ids) {
    std::ranges::sort(ids);
    return std::distance(ids.begin(), std::ranges::unique(ids).begin());
  };
  r.sampling.presence_penalty = 100;
  EXPECT_EQ(distinct(one.submit(r).wait().ids), 60);  // none comes twice
}

TEST_F(EngineTest, EndsACancelledRequestWhereverItIsAndTheOthersGoOn) {
  Engine many = engine({.num_pages = 4, .step_tokens = 16, .max_running = 2});
  Generation running = many.submit(request(40, 150));
  Generation other = many.submit(request(40, 20));
  Generation waiting = many.submit(request(200, 20));
  ASSERT_TRUE(running.next());
  running.cancel();
  waiting.cancel();
  EXPECT_EQ(running.wait().finish, FinishReason::kCancelled);
  EXPECT_EQ(waiting.wait().finish, FinishReason::kCancelled);
  EXPECT_TRUE(waiting.wait().ids.empty());
  EXPECT_EQ(other.wait().ids.size(), 20U);
  EXPECT_EQ(many.submit(request(200, 50)).wait().ids.size(), 50U);  // all pages are there again
}

TEST_F(EngineTest, CancelsWhatIsOnItsWayWhenItIsDestroyed) {
  std::optional<Generation> generation;
  {
    Engine one = engine({.num_pages = 16});
    generation = one.submit(request(20, 800));
    generation->next();
  }
  EXPECT_EQ(generation->wait().finish, FinishReason::kCancelled);
}

TEST_F(EngineTest, EndsARequestWhoseCallbackThrowsAlone) {
  Engine many = engine({.num_pages = 16});
  Request bad = request(20, 10);
  bad.on_token = [](const GeneratedToken&) { throw Error(ErrorKind::kIoError, "The reader has gone."); };
  Request bad_logits = request(20, 10);
  bad_logits.on_prompt_logits = [](int64_t, int64_t, const float*) {
    throw Error(ErrorKind::kIoError, "The reader has gone.");
  };
  Generation first = many.submit(bad);
  Generation second = many.submit(request(20, 10));
  Generation third = many.submit(bad_logits);
  EXPECT_EQ(error_of(first), ErrorKind::kIoError);
  EXPECT_EQ(second.wait().ids.size(), 10U);
  EXPECT_EQ(error_of(third), ErrorKind::kIoError);
}

bool holds_poison(const TokenBatch& batch) {
  return std::find(batch.token, batch.token + batch.num_tokens, kPoison) != batch.token + batch.num_tokens;
}

/// A back end whose embedding throws, or gives NaN, where it meets kPoison.
template <bool kThrows>
const Backend& broken_backend() {
  static const Backend broken = [] {
    Backend table = choose_backend();
    table.embed = [](Context& context, const Embed& op) {
      if (kThrows && holds_poison(op.batch)) throw std::runtime_error("injected");
      choose_backend().embed(context, op);
      for (int t = 0; t < op.batch.num_tokens; ++t) {
        if (op.batch.token[t] == kPoison) *op.hidden.row(t) = std::numeric_limits<float>::quiet_NaN();
      }
    };
    return table;
  }();
  return broken;
}

TEST_F(EngineTest, EndsTheRequestAloneForWhichAKernelThrows) {
  Engine good = engine({.num_pages = 16});
  Engine many = engine({.num_pages = 16}, &broken_backend<true>());
  Request poisoned = request(30, 10);
  poisoned.prompt[17] = kPoison;
  const Request before = request(40, 30);
  const Request after = request(50, 30);
  Generation first = many.submit(before);
  Generation bad = many.submit(poisoned);
  Generation last = many.submit(after);
  EXPECT_THROW(bad.wait(), std::runtime_error);
  EXPECT_EQ(first.wait().ids, good.submit(before).wait().ids);
  EXPECT_EQ(last.wait().ids, good.submit(after).wait().ids);
}

TEST_F(EngineTest, EndsTheRequestAloneWhoseScoresAreNan) {
  Engine good = engine({.num_pages = 16});
  Engine many = engine({.num_pages = 16}, &broken_backend<false>());
  Request poisoned = request(130, 10);
  poisoned.prompt[100] = kPoison;
  const Request before = request(40, 30);
  Generation first = many.submit(before);
  Generation bad = many.submit(poisoned);
  EXPECT_EQ(error_of(bad), ErrorKind::kBadValue);
  EXPECT_EQ(first.wait().ids, good.submit(before).wait().ids);
  EXPECT_EQ(error_of(many.submit(poisoned)), ErrorKind::kBadValue);  // nothing of it was cached
  EXPECT_EQ(many.submit(before).wait().ids, first.wait().ids);       // nor is read in its pages
}

/// Neither raises a signal: the rest of the last page reads as zeros, what is written is read as it is.
TEST_F(EngineTest, EndsARequestWithAnErrorWhenItsCheckpointIsCutOrWrittenToMeanwhile) {
  const auto cut = [](const std::filesystem::path& file) {
    std::filesystem::resize_file(file, std::filesystem::file_size(file) - 2);
  };
  const auto write = [](const std::filesystem::path& file) {
    std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(-2, std::ios::end);
    out.write("??", 2);
  };
  for (const auto& change : std::vector<std::function<void(const std::filesystem::path&)>>{cut, write}) {
    const TemporaryFolder folder;
    std::filesystem::copy(golden("v3-bf16"), folder.path(), std::filesystem::copy_options::recursive);
    const std::filesystem::path file = folder / "model.safetensors";
    std::filesystem::permissions(file, std::filesystem::perms::owner_write,
                                 std::filesystem::perm_options::add);
    std::filesystem::last_write_time(file, std::filesystem::last_write_time(file) - std::chrono::hours(1));
    const LoadedModel loaded = load_model(folder.path(), Precision::kNative, 1);
    Engine engine(loaded, nullptr, {.threads = 1, .num_pages = 4}, {.num_pages = 4});
    int heard = 0;
    Request changed = request(20, 3);
    changed.on_token = [&](const GeneratedToken&) {
      if (heard++ == 0) change(file);
    };
    EXPECT_EQ(error_of(engine.submit(std::move(changed))), ErrorKind::kIoError);
    EXPECT_EQ(error_of(engine.submit(request(20, 0))), ErrorKind::kIoError) << "and so does every later one";
  }
}

TEST_F(EngineTest, BeginsRequestsThatComeTogetherInOneStep) {
  Engine together = engine({.num_pages = 8});
  const uint64_t before = together.runner().model_time().steps();
  for (Generation& generation : together.submit_all({request(20, 3), request(5, 3), request(40, 3)})) {
    EXPECT_EQ(generation.wait().ids.size(), 3);
  }
  EXPECT_EQ(together.runner().model_time().steps() - before, 3);
  EXPECT_TRUE(together.submit_all({}).empty());
}

TEST_F(EngineTest, BeginsNoneOfRequestsThatComeTogetherWhereOneCantRun) {
  Engine together = engine({.num_pages = 8});
  EXPECT_THROW(together.submit_all({request(20, 3), request(20, 8 * kPageTokens)}), Error);
  EXPECT_EQ(together.submit(request(20, 1)).wait().ids.size(), 1);
  EXPECT_EQ(together.runner().model_time().steps(), 1);
}

TEST_F(EngineTest, RefusesWhatItCantRun) {
  Engine one = engine({.num_pages = 2});
  const auto refuses = [&](const auto& change) {
    Request r = request(20, 10);
    change(r);
    try {
      one.submit(std::move(r));
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kBadRequest && !error.problems().front().found.empty();
    }
    return false;
  };
  EXPECT_FALSE(refuses([](Request&) {}));
  EXPECT_TRUE(refuses([](Request& r) { r.prompt.clear(); }));
  EXPECT_TRUE(refuses([](Request& r) { r.prompt[3] = -1; }));
  EXPECT_TRUE(refuses([](Request& r) { r.prompt[3] = static_cast<int32_t>(vocab()); }));
  EXPECT_TRUE(refuses([](Request& r) { r.max_tokens = 1000000; }));
  EXPECT_TRUE(refuses([](Request& r) { r.max_tokens = -1; }));
  EXPECT_TRUE(refuses([](Request& r) { r.max_tokens = 110; }));  // 129 tokens in 128 positions
  EXPECT_FALSE(refuses([](Request& r) { r.max_tokens = 109; }));
  EXPECT_TRUE(refuses([](Request& r) { r.stop = {"x"}; }));
  EXPECT_TRUE(refuses([](Request& r) { r.stop_tokens = {-5}; }));
  EXPECT_TRUE(refuses([](Request& r) { r.sampling.temperature = std::nanf(""); }));
  EXPECT_TRUE(refuses([](Request& r) { r.sampling.top_p = 1.5F; }));
  EXPECT_TRUE(refuses([](Request& r) { r.sampling.repetition_penalty = 0; }));
  EXPECT_TRUE(refuses([](Request& r) { r.sampling.logit_bias = {{100000, 1.0F}}; }));
  EXPECT_TRUE(refuses([](Request& r) { r.sampling.logit_bias = {{1, std::nanf("")}}; }));
  EXPECT_TRUE(refuses([](Request& r) { r.num_logprobs = 100000; }));
  EXPECT_THROW(one.encode("text"), Error);
}

class EngineText : public testing::Test {
 protected:
  Engine engine_{FULGUR_SOURCE_DIR "/models/mini-v32", {.threads = 1, .cache_tokens = 2048}};
};

TEST_F(EngineText, EndsBeforeAStopStringAndHoldsBackWhatMayBecomeOne) {
  Request r{.prompt = engine_.encode("In the beginning God created"), .max_tokens = 24};
  const Completion whole = engine_.submit(r).wait();
  EXPECT_EQ(engine_.decode(whole.ids), whole.text);
  ASSERT_GT(whole.text.size(), 20U);
  const std::string stop = whole.text.substr(9, 6);
  r.stop = {"not in there", stop};
  Generation generation = engine_.submit(r);
  std::string text;
  while (const auto token = generation.next()) text += token->text;
  const Completion completion = generation.wait();
  EXPECT_EQ(text, whole.text.substr(0, whole.text.find(stop)));
  EXPECT_EQ(completion.text, text);
  EXPECT_EQ(completion.finish, FinishReason::kStop);
  EXPECT_LT(completion.ids.size(), whole.ids.size());

  r.stop = {whole.text.substr(whole.text.size() - 4) + "never"};
  EXPECT_EQ(engine_.submit(r).wait().text, whole.text);  // what was held back comes at the end
}

TEST(EngineOptions, AreRefusedOutOfRange) {
  for (const EngineOptions& options :
       {EngineOptions{.threads = EngineLimits::kThreads + 1},
        EngineOptions{.cache_tokens = int64_t{64} << 32}, EngineOptions{.step_tokens = 0},
        EngineOptions{.step_tokens = INT64_MAX}, EngineOptions{.max_running = 0},
        EngineOptions{.num_drafts = EngineLimits::kDrafts + 1},
        EngineOptions{.cache_forms = {.latents = static_cast<CacheForm>(4)}},
        EngineOptions{.cache_forms = {.index_keys = static_cast<CacheForm>(-1)}}}) {
    EXPECT_THROW(Engine(FULGUR_SOURCE_DIR "/models/mini-v32", options), Error);
  }
  EXPECT_THROW(Engine(FULGUR_SOURCE_DIR "/models/no-such-model"), Error);
}

}  // namespace
}  // namespace fulgur
