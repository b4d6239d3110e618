// The memory of an engine of the public API: as its plan foretells, and no more than was asked for.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/process_memory.h"
#include "model/conversion.h"
#include "runtime/plan_engine.h"
#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

const fs::path kMini = fs::path(FULGUR_SOURCE_DIR) / "models/mini-v32";

/// mini-v32's shapes and the vocabulary of V3.2, drawn: logits of a step are as much as its caches.
class LargeVocabulary : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    RandomWeights wanted{.config = kMini / "config.json", .form = TargetForm::kBf16};
    wanted.changes.fields.push_back({"vocab_size", "129280"});
    convert_random_model(wanted, model(), {}, {});
  }
  static void TearDownTestSuite() {
    delete folder_;
    folder_ = nullptr;
  }
  static fs::path model() { return folder_->path() / "model"; }

  static TemporaryFolder* folder_;
};
TemporaryFolder* LargeVocabulary::folder_ = nullptr;

/// The most that the process holds from now on.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

Problem refusal(Engine& engine, const Request& request) {
  try {
    engine.submit(request);
  } catch (const Error& error) {
    return error.problems().front();
  }
  ADD_FAILURE() << "taken";
  return {};
}

TEST_F(LargeVocabulary, TakesWhatThePlanForetells) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take memory of their own";
  struct Load {
    int requests;
    bool prompt_logits;
    int num_logprobs;
    size_t prompt = 300;
    int64_t max_tokens = 20;
  };
  // The last one's steps have 33 MB of logprobs each.
  for (const Load& load :
       {Load{4, false, -1}, Load{4, true, -1}, Load{64, false, 5}, Load{16, false, 129280, 10, 3}}) {
    const EngineOptions options{.threads = 2,
                                .cache_tokens = load.requests * 320,
                                .step_tokens = 256,
                                .max_running = load.requests,
                                .prompt_logits = load.prompt_logits,
                                .max_logprobs = std::max(load.num_logprobs, 0)};
    forget_peak();
    const uint64_t foretold = plan_engine(model(), options).need.total();
    Engine engine(model(), options);
    std::vector<Request> requests(static_cast<size_t>(load.requests));
    int64_t rows = 0;
    for (Request& request : requests) {
      request.prompt.assign(load.prompt, 7);
      request.max_tokens = load.max_tokens;
      request.on_token = [](const GeneratedToken&) {};
      request.num_logprobs = load.num_logprobs;
      request.sampling.presence_penalty = load.num_logprobs < 0 ? 0 : 1;
      if (load.prompt_logits)
        request.on_prompt_logits = [&](int64_t, int64_t count, const float*) { rows += count; };
    }
    for (Generation& generation : engine.submit_all(std::move(requests))) generation.wait();
    EXPECT_EQ(rows, load.prompt_logits ? 4 * 300 : 0);
    const auto used = static_cast<double>(peak_rss_bytes());
    EXPECT_NEAR(static_cast<double>(foretold) / used, 1, 0.05)
        << foretold << " foretold, " << used << " used";
  }
}

TEST_F(LargeVocabulary, RefusesLogitsOfPromptsThatItHasNoRoomFor) {
  Engine engine(model(), {.threads = 1, .cache_tokens = 256});
  Request request{.prompt = {1, 2, 3}, .max_tokens = 2};
  request.on_prompt_logits = [](int64_t, int64_t, const float*) {};
  const Problem problem = refusal(engine, request);
  EXPECT_EQ(problem.kind, ErrorKind::kBadRequest);
  EXPECT_NE(problem.todo.find("prompt_logits"), std::string::npos) << problem.todo;
  request.on_prompt_logits = nullptr;
  EXPECT_EQ(engine.submit(request).wait().ids.size(), 2U);
}

TEST_F(LargeVocabulary, RefusesMoreLogprobsThanItHasRoomFor) {
  Engine engine(model(), {.threads = 1, .cache_tokens = 256, .max_logprobs = 3});
  Request request{.prompt = {1, 2, 3}, .max_tokens = 2, .num_logprobs = 4};
  const Problem problem = refusal(engine, request);
  EXPECT_EQ(problem.kind, ErrorKind::kBadRequest);
  EXPECT_EQ(problem.expected, "num_logprobs of at most 3");
  EXPECT_EQ(problem.found, "4");
  EXPECT_NE(problem.todo.find("max_logprobs"), std::string::npos) << problem.todo;
  request.num_logprobs = 3;
  Generation generation = engine.submit(request);
  EXPECT_EQ(generation.next()->likeliest.size(), 3U);
  EXPECT_EQ(generation.wait().ids.size(), 2U);
}

TEST(EnginePlan, LogprobsOfNoMoreThanTheVocabularyAreCounted) {
  const auto host = [](int max_logprobs) {
    return plan_engine(kMini, {.threads = 1, .cache_tokens = 1000, .max_logprobs = max_logprobs}).need.host;
  };
  EXPECT_LT(host(0), host(20));
  EXPECT_EQ(host(std::numeric_limits<int>::max()), host(1280));
  EXPECT_THROW(host(-1), Error);
}

/// Of 42 MB, more than the steps of so small a model take.
TEST(EngineMemory, HoldsTheTablesOfManyPositionsOnce) {
  if (kSanitized) GTEST_SKIP() << "sanitizers take memory of their own";
  const fs::path model = fs::path(FULGUR_SOURCE_DIR) / "tests/golden/data/v32-bf16";
  const EngineOptions options{.threads = 1, .cache_tokens = 163840, .step_tokens = 64, .num_drafts = 0};
  forget_peak();
  const uint64_t foretold = plan_engine(model, options).need.total();
  Engine engine(model, options);
  engine.submit({.prompt = {5, 6, 7}, .max_tokens = 2}).wait();
  EXPECT_NEAR(static_cast<double>(foretold) / static_cast<double>(peak_rss_bytes()), 1, 0.05);
}

TEST(EnginePlan, StepsHaveNoMoreTokensThanTheCachesHold) {
  const auto plan = [](int64_t step_tokens) {
    return plan_engine(kMini, {.threads = 1, .cache_tokens = 1000, .step_tokens = step_tokens});
  };
  const EnginePlan most = plan(EngineLimits::kStepTokens);
  EXPECT_EQ(most.scheduler.step_tokens, 1024);  // whole pages
  EXPECT_EQ(most.need.scratch, plan(1024).need.scratch);
  EXPECT_LT(plan(128).need.scratch, most.need.scratch);
}

TEST(EnginePlan, CachesHoldWholePages) {
  const auto scratch = [](int64_t cache_tokens) {
    return plan_engine(kMini, {.threads = 1, .cache_tokens = cache_tokens}).need.scratch;
  };
  EXPECT_EQ(scratch(1), scratch(64));
  EXPECT_EQ(scratch(65), scratch(128));
}

TEST(EnginePlan, ThreadsCountForWhatFits) {
  MemoryNeed need = plan_engine(kMini, {.threads = 1, .cache_tokens = 1000}).need;
  check_fits(need);
  need.stacks = uint64_t{1} << 60;
  EXPECT_THROW(check_fits(need), Error);
}

}  // namespace
}  // namespace fulgur
