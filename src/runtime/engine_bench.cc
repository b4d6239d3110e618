#include "runtime/engine_bench.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <span>

#include "base/error.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

/// Times of some requests that run at once, as the engine's thread meets them. Between the last first token
/// and the first last one all of them decode.
class Window {
 public:
  Window(const StepRunner& runner, size_t requests, int64_t new_tokens)
      : runner_(runner), new_tokens_(new_tokens), counts_(requests, 0) {}

  void token(size_t request) {
    if (ended_) return;
    if (begun_ == counts_.size()) ++tokens_;
    if (counts_[request]++ == 0 && ++begun_ == counts_.size()) begin_ = now();
    if (counts_[request] < new_tokens_) return;
    if (begun_ < counts_.size() || tokens_ == 0) {
      throw Error(
          Problem{.kind = ErrorKind::kBadRequest,
                  .message = "A request ended before all of them had begun, so there is nothing to time.",
                  .todo = "ask for more new tokens, or for fewer requests at once"});
    }
    ended_ = true;
    end_ = now();
  }

  [[nodiscard]] int64_t tokens() const { return tokens_; }
  [[nodiscard]] double whole_s() const { return seconds(end_.time - begin_.time); }
  [[nodiscard]] double model_s() const { return seconds(end_.model - begin_.model); }
  [[nodiscard]] uint64_t steps() const { return end_.steps - begin_.steps; }

 private:
  struct Moment {
    Clock::time_point time;
    std::chrono::nanoseconds model{0};
    uint64_t steps = 0;
  };
  [[nodiscard]] Moment now() const {
    return {Clock::now(), runner_.model_time().total(), runner_.model_time().steps()};
  }

  const StepRunner& runner_;
  const int64_t new_tokens_;
  std::vector<int64_t> counts_;  // tokens of each request
  size_t begun_ = 0;
  bool ended_ = false;
  int64_t tokens_ = 0;  // in the window
  Moment begin_;
  Moment end_;
};

struct Round {
  std::vector<double> tokens_per_s;
  std::vector<double> step_us;
  std::vector<double> outside_model;
  int64_t drafted = 0;
  int64_t accepted = 0;
};

void run_round(Engine& engine, const EngineBench& bench, int requests, Round& round) {
  const auto count = static_cast<size_t>(requests);
  // Of the callbacks too: where one throws, the others' requests are still on their way.
  const auto window = std::make_shared<Window>(engine.runner(), count, bench.new_tokens);
  std::vector<Generation> generations;
  for (size_t i = 0; i < count; ++i) {
    generations.push_back(
        engine.submit({.prompt = bench.prompts[i % bench.prompts.size()],
                       .max_tokens = bench.new_tokens,
                       .ignore_end_tokens = true,
                       .on_token = [window, i](const GeneratedToken&) { window->token(i); }}));
  }
  for (Generation& generation : generations) {
    const Completion completion = generation.wait();
    round.drafted += completion.drafted;
    round.accepted += completion.accepted;
  }
  round.tokens_per_s.push_back(static_cast<double>(window->tokens()) / window->whole_s());
  round.step_us.push_back(1e6 * window->whole_s() /
                          static_cast<double>(std::max<uint64_t>(1, window->steps())));
  round.outside_model.push_back(1 - window->model_s() / window->whole_s());
}

}  // namespace

void bench_throughput(const std::vector<Engine*>& engines, const EngineBench& bench,
                      const std::function<void(const ThroughputLine&)>& take) {
  for (const int requests : bench.requests) {
    std::vector<Round> rounds(engines.size());
    for (int round = 0; round < bench.rounds; ++round) {
      for (size_t i = 0; i < engines.size(); ++i) run_round(*engines[i], bench, requests, rounds[i]);
    }
    for (size_t i = 0; i < engines.size(); ++i) {
      take({.requests = requests,
            .engine = i,
            .tokens_per_s = Spread::of(rounds[i].tokens_per_s),
            .step_us = Spread::of(rounds[i].step_us),
            .outside_model = Spread::of(rounds[i].outside_model),
            .drafted = rounds[i].drafted,
            .accepted = rounds[i].accepted});
    }
  }
}

FirstTokenTimes bench_first_token(Engine& engine, int64_t prefix, int rounds) {
  std::mt19937 random(1);
  const auto draw = [&](std::span<int32_t> tokens) {
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(random() % static_cast<uint32_t>(engine.runner().config().vocab_size));
  };
  std::vector<double> computed;
  std::vector<double> cached;
  std::vector<int32_t> prompt(static_cast<size_t>(prefix + kTailTokens));
  for (int round = 0; round < rounds; ++round) {
    draw(prompt);
    for (std::vector<double>* times : {&computed, &cached}) {
      draw(std::span(prompt).last(kTailTokens));
      times->push_back(1e3 * engine.submit({.prompt = prompt, .max_tokens = 1}).wait().prompt_s);
    }
  }
  return {Spread::of(computed), Spread::of(cached)};
}

}  // namespace fulgur
