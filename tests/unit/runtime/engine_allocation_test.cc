// Memory that runs out on the engine's thread, at any allocation: what it hits ends with std::bad_alloc, the
// process and the other requests go on, and no page is lost.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <optional>
#include <random>
#include <vector>

#include "engine_support.h"
#include "fulgur/engine.h"
#include "hooked_backend.h"
#include "model/load.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

thread_local bool on_engine_thread = false;  // of an engine with a hooked back end, after its first step
std::atomic<int64_t> allocations_left = -1;  // before one fails; negative: none does
std::atomic<bool> fails_for_ever = false;
std::atomic<bool> has_failed = false;

bool fails() {
  if (!on_engine_thread || allocations_left < 0) return false;
  if (allocations_left > 0) {
    --allocations_left;
    return false;
  }
  if (!fails_for_ever) allocations_left = -1;
  has_failed = true;
  return true;
}

}  // namespace
}  // namespace fulgur

// Not inlined, or GCC takes the one for another's partner.
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return fulgur::fails() ? nullptr : std::malloc(bytes);
}
[[gnu::noinline]] void* operator new(size_t bytes) {
  void* const data = operator new(bytes, std::nothrow);
  if (data == nullptr) throw std::bad_alloc();
  return data;
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace fulgur {
namespace {

constexpr int kPages = 5;

/// What a request says, or nothing where it ended for want of memory.
std::optional<std::vector<int32_t>> text_of(Generation& generation) {
  try {
    return generation.wait().ids;
  } catch (const std::bad_alloc&) {
    return std::nullopt;
  }
}

class StarvedEngine : public testing::TestWithParam<bool> {
 protected:
  StarvedEngine() {
    BackendHook::set([](std::string_view) { on_engine_thread = true; });
    std::mt19937 random(3);
    for (const auto& [prompt, text] : {std::pair(70, 3), {9, 8}, {33, 4}}) {
      requests_.push_back({.prompt = random_tokens(random, prompt, model_.config.vocab_size),
                           .max_tokens = text,
                           .ignore_end_tokens = true});
    }
    requests_[1].sampling = {.temperature = 0.8F, .seed = 5, .repetition_penalty = 1.2F};
    requests_[2].num_logprobs = 2;
    whole_ = {.prompt = random_tokens(random, kPages * kPageTokens, model_.config.vocab_size),
              .max_tokens = 1};
  }
  ~StarvedEngine() override { BackendHook::set(nullptr); }

  std::vector<std::optional<std::vector<int32_t>>> texts() {
    std::vector<Generation> generations;
    {
      const auto held = BackendHook::hold();
      for (const Request& request : requests_) generations.push_back(engine_.submit(request));
    }
    std::vector<std::optional<std::vector<int32_t>>> texts;
    for (Generation& generation : generations) texts.push_back(text_of(generation));
    return texts;
  }

  LoadedModel model_ = load_model(golden("glm-bf16"), LoadOptions{.mtp = true}, 1);
  Engine engine_{model_,
                 nullptr,
                 {.num_pages = kPages, .num_drafts = 2, .backend = &hooked_backend()},
                 {.num_pages = kPages, .step_tokens = 48, .max_running = 2}};
  std::vector<Request> requests_;
  Request whole_;  // needs every page
};

TEST_P(StarvedEngine, EndsRequestsWithBadAllocAndRunsOn) {
  engine_.submit(whole_).wait();
  const auto expected = texts();
  int64_t num_ended = 0;
  int64_t n = 0;
  // Every allocation of the first steps, then one here and there.
  for (has_failed = true; has_failed; n += n < 200 ? 1 : 23) {
    SCOPED_TRACE(testing::Message() << "allocation " << n);
    has_failed = false;
    fails_for_ever = GetParam();
    allocations_left = n;
    const auto found = texts();
    allocations_left = -1;
    bool hit = false;
    for (size_t i = 0; i < found.size(); ++i) {
      hit = hit || !found[i];
      num_ended += found[i] ? 0 : 1;
      EXPECT_TRUE(!found[i] || found[i] == expected[i]) << "request " << i;
    }
    EXPECT_TRUE(hit || !(fails_for_ever && has_failed));
    if (n % 10 == 0) {
      EXPECT_EQ(engine_.submit(whole_).wait().ids.size(), 1U);
    }
    if (testing::Test::HasFailure()) return;
  }
  EXPECT_EQ(texts(), expected);
  EXPECT_GT(n, 500);
  EXPECT_GT(num_ended, 90);  // where a step is run again, none does
}

INSTANTIATE_TEST_SUITE_P(ThatOneAllocationFails, StarvedEngine, testing::Values(false, true),
                         [](const auto& info) { return info.param ? "AndAllAfterIt" : "Alone"; });

}  // namespace
}  // namespace fulgur
