#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "fulgur/engine.h"
#include "runtime/spread.h"
#include "runtime/step_scratch.h"

namespace fulgur {

struct EngineBench {
  std::vector<int> requests = {1, 4, 16, 64};  // at once
  std::vector<std::vector<int32_t>> prompts;   // taken in turn
  int64_t new_tokens = 64;  // that a request has at the end of the time, since all of them have begun
  int rounds = 5;

  /// New tokens that each of so many requests asks for, so that none ends before that time begins.
  [[nodiscard]] std::vector<int64_t> max_tokens(int num_requests, int num_drafts) const;
  /// Of a step: half of them at least are for prompts, or it would take long until all requests have begun.
  [[nodiscard]] int64_t step_tokens(int num_drafts) const;
  /// What an engine is made for.
  [[nodiscard]] RunSize size(int num_drafts) const;

 private:
  [[nodiscard]] int64_t prompt_tokens(size_t request) const;
};

/// Spreads are over the rounds.
struct ThroughputLine {
  int requests = 0;
  size_t engine = 0;
  Spread tokens_per_s;   // of all requests together, while all of them decode
  Spread step_us;        // wall time of a step then
  Spread outside_model;  // its share that is scheduling, sampling and bookkeeping (runtime/model_time.h)
  int64_t drafted = 0;   // in all rounds
  int64_t accepted = 0;
};

/// Of bench.size(num_drafts) and without a prefix cache.
struct BenchedEngine {
  Engine* engine = nullptr;
  int num_drafts = 0;
};

/// Decoding, greedily and past end tokens, on engines that take turns. Each line is handed over when it is
/// measured.
void bench_throughput(const std::vector<BenchedEngine>& engines, const EngineBench& bench,
                      const std::function<void(const ThroughputLine&)>& take);

/// Milliseconds from submit() to the first token of prompts of `prefix` + kTailTokens tokens, drawn at
/// random.
struct FirstTokenTimes {
  Spread computed;
  Spread cached;  // where all whole pages of the prefix are found in the cache
};
constexpr int64_t kTailTokens = 16;
/// The engine for it: with a prefix cache, for two such prompts with the same prefix; those of the next round
/// take their pages.
RunSize first_token_size(int64_t prefix);
FirstTokenTimes bench_first_token(Engine& engine, int64_t prefix, int rounds);

}  // namespace fulgur
