// The memory of steps that is predicted before an engine starts is all that its steps ask for.

#include "runtime/step_scratch.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <vector>

#include "engine_support.h"
#include "fulgur/engine.h"
#include "model/load.h"
#include "runtime/choose_backend.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

std::atomic<int> allocations = 0;

const Backend& counting_backend() {
  static const Backend backend = [] {
    Backend table = choose_backend();
    table.allocate = [](size_t bytes) {
      ++allocations;
      return choose_backend().allocate(bytes);
    };
    return table;
  }();
  return backend;
}

struct Load {
  int requests = 1;
  int64_t prompt = 1;
  int64_t new_tokens = 0;
  int num_drafts = 0;
  bool logits = false;
};
std::ostream& operator<<(std::ostream& out, const Load& load) {
  return out << load.requests << "_of_" << load.prompt << "_and_" << load.new_tokens << "_drafts_"
             << load.num_drafts << (load.logits ? "_logits" : "");
}

class StepScratch : public testing::TestWithParam<Load> {};

TEST_P(StepScratch, IsAllThatStepsAskFor) {
  const Load& load = GetParam();
  const LoadedModel model = load_model(golden("glm-bf16"), LoadOptions{.mtp = true}, 1);
  const int64_t length = load.prompt + load.new_tokens;
  const RunSize size{.cache_tokens = load.requests * pages_for(length) * kPageTokens,
                     .context = length,
                     .prompt = load.prompt,
                     .sequences = load.requests,
                     .hands_out_logits = load.logits};
  RunnerOptions runner{.threads = 2,
                       .num_pages = static_cast<int>(size.num_pages()),
                       .num_drafts = load.num_drafts,
                       .backend = &counting_backend()};
  runner.scratch_bytes = step_scratch_bytes(model.config, model.weights, runner, size);
  Engine engine(model, nullptr, runner, {.num_pages = runner.num_pages, .prefix_cache = false});

  std::mt19937 random(1);
  std::vector<Request> requests;
  for (int i = 0; i < load.requests; ++i) {
    requests.push_back({.prompt = random_tokens(random, load.prompt, model.config.vocab_size),
                        .max_tokens = load.new_tokens,
                        .ignore_end_tokens = true});
    if (load.logits) requests.back().on_prompt_logits = [](int64_t, int64_t, const float*) {};
  }
  const int before = allocations;
  for (Generation& generation : engine.submit_all(std::move(requests))) generation.wait();
  EXPECT_EQ(allocations - before, 0);
}

// 66: a step holds the last tokens of one prompt and the first of another. 4, 3 and 1: those of many prompts
// beside many sequences that decode.
INSTANTIATE_TEST_SUITE_P(OfLoads, StepScratch,
                         testing::Values(Load{1, 700, 3}, Load{1, 700, 3, 1}, Load{1, 512, 5, 3},
                                         Load{40, 66, 0, 0, true}, Load{40, 66, 3, 1}, Load{64, 48, 20, 1},
                                         Load{30, 20, 300}, Load{250, 4, 2}, Load{250, 3, 3, 1},
                                         Load{256, 1, 9, 1}, Load{256, 2, 9, 3}, Load{9, 130, 5, 2},
                                         Load{3, 600, 0, 0, true}),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace fulgur
