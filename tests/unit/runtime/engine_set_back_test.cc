// A request that is set back begins anew: nothing is held to be in the caches of what it gave up.

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "engine_support.h"
#include "fulgur/engine.h"
#include "model/load.h"
#include "ops/embed.h"
#include "ops/mtp_input.h"
#include "runtime/choose_backend.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

/// A chunk as the ops of its step saw it.
struct SeenChunk {
  int32_t first = 0;   // position
  int64_t tokens = 0;  // that the main model ran
  int64_t pairs = 0;   // that the MTP layer ran
};
std::vector<std::vector<SeenChunk>> seen;  // of each step; the engine's thread's

const Backend& watched_backend() {
  static const Backend backend = [] {
    Backend table = choose_backend();
    table.embed = [](Context& context, const Embed& op) {
      std::vector<SeenChunk>& step = seen.emplace_back(op.batch.num_sequences);
      for (int i = op.batch.num_tokens; i-- > 0;) {
        SeenChunk& chunk = step[static_cast<size_t>(op.batch.sequence[i])];
        chunk.first = op.batch.position[i];
        ++chunk.tokens;
      }
      choose_backend().embed(context, op);
    };
    table.mtp_input = [](Context& context, const MtpInput& op) {
      for (int i = 0; i < op.batch.num_tokens; ++i) {
        ++seen.back()[static_cast<size_t>(op.batch.sequence[i])].pairs;
      }
      choose_backend().mtp_input(context, op);
    };
    return table;
  }();
  return backend;
}

TEST(SetBackEngine, PairsAgainWhatItComputesAgainAndCountsAsCachedWhatWasWhenTheRequestCame) {
  constexpr int kPages = 4;
  const LoadedModel model = load_model(golden("glm-bf16"), LoadOptions{.mtp = true}, 1);
  Engine engine(model, nullptr, {.num_pages = kPages, .num_drafts = 1, .backend = &watched_backend()},
                {.num_pages = kPages});
  std::mt19937 random(2);
  std::vector<Request> both;
  for (const auto& [prompt, text] : {std::pair(60, 80), {100, 60}}) {
    both.push_back({.prompt = random_tokens(random, prompt, model.config.vocab_size),
                    .max_tokens = text,
                    .ignore_end_tokens = true});
  }
  std::vector<Generation> generations = engine.submit_all(both);
  generations[0].wait();
  const Completion younger = generations[1].wait();
  ASSERT_GT(younger.num_preemptions, 0);
  EXPECT_EQ(younger.cached_tokens, 0);  // of its prompt; what it finds again is its own

  int begun_behind_a_page = 0;
  for (const std::vector<SeenChunk>& step : seen) {
    for (const SeenChunk& chunk : step) {
      if (chunk.tokens <= 2) continue;  // a token with its draft
      if (chunk.first > 0) ++begun_behind_a_page;
      EXPECT_GE(chunk.pairs, chunk.tokens - 1) << "of a chunk at " << chunk.first;
    }
  }
  EXPECT_GT(begun_behind_a_page, 0) << "it found none of its pages again";
}

}  // namespace
}  // namespace fulgur
