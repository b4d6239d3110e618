#include "runtime/engine_bench.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>

#include "runtime/step_runner.h"

namespace fulgur {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

/// Times of some requests that run at once, as the engine's thread meets them: from the last first token on
/// all of them decode, until one has `new_tokens` since.
class Window {
 public:
  Window(const StepRunner& runner, size_t requests, int64_t new_tokens)
      : runner_(runner), new_tokens_(new_tokens), counts_(requests, 0) {}

  void token(size_t request) {
    if (ended_) return;
    if (begun_ < counts_.size()) {
      if (counts_[request] == 0 && ++begun_ < counts_.size()) counts_[request] = 1;
      if (begun_ < counts_.size()) return;
      begin_ = now();
      std::ranges::fill(counts_, 0);
      return;
    }
    ++tokens_;
    if (++counts_[request] < new_tokens_) return;
    ended_ = true;
    end_ = now();
  }
  [[nodiscard]] bool ended() const { return ended_; }

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
  std::vector<int64_t> counts_;  // tokens of each request, since all of them have begun
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

void run_round(const BenchedEngine& benched, const EngineBench& bench, int requests, Round& round) {
  Engine& engine = *benched.engine;
  const auto count = static_cast<size_t>(requests);
  // Of the callbacks too: where one throws, the others' requests are still on their way.
  const auto window = std::make_shared<Window>(engine.runner(), count, bench.new_tokens);
  const std::vector<int64_t> max_tokens = bench.max_tokens(requests, benched.num_drafts);
  std::vector<Request> all;
  for (size_t i = 0; i < count; ++i) {
    all.push_back({.prompt = bench.prompts[i % bench.prompts.size()],
                   .max_tokens = max_tokens[i],
                   .ignore_end_tokens = true,
                   .on_token = [window, i](const GeneratedToken&) { window->token(i); }});
  }
  for (Generation& generation : engine.submit_all(std::move(all))) {
    const Completion completion = generation.wait();
    round.drafted += completion.drafted;
    round.accepted += completion.accepted;
  }
  if (!window->ended()) throw std::logic_error("bench: a request ended before all of them had begun");
  round.tokens_per_s.push_back(static_cast<double>(window->tokens()) / window->whole_s());
  round.step_us.push_back(1e6 * window->whole_s() /
                          static_cast<double>(std::max<uint64_t>(1, window->steps())));
  round.outside_model.push_back(1 - window->model_s() / window->whole_s());
}

}  // namespace

int64_t EngineBench::step_tokens(int num_drafts) const {
  return std::max<int64_t>(kStepTokens, int64_t{2} * *std::ranges::max_element(requests) * (1 + num_drafts));
}

std::vector<int64_t> EngineBench::max_tokens(int num_requests, int num_drafts) const {
  const int64_t each = 1 + num_drafts;
  std::vector<int64_t> begins;  // the step with the last token of each prompt
  int64_t step = 0;
  int64_t budget = step_tokens(num_drafts);
  for (size_t i = 0; i < static_cast<size_t>(num_requests); ++i) {
    int64_t rest = prompt_tokens(i);
    while (rest > budget) {
      rest -= budget;
      ++step;
      budget = step_tokens(num_drafts) - static_cast<int64_t>(i) * each;
    }
    budget -= rest;
    begins.push_back(step);
  }
  // Where fewer drafts are made than can be, prompts begin sooner, and these steps are cut otherwise: one
  // more.
  const int64_t last = begins.back() + (num_drafts > 0 ? 1 : 0);
  for (int64_t& tokens : begins) tokens = 1 + (last - tokens) * each + new_tokens;
  return begins;
}

int64_t EngineBench::prompt_tokens(size_t request) const {
  return std::ssize(prompts[request % prompts.size()]);
}

RunSize EngineBench::size(int num_drafts) const {
  RunSize size{.step_tokens = step_tokens(num_drafts), .sequences = *std::ranges::max_element(requests)};
  const std::vector<int64_t> tokens = max_tokens(static_cast<int>(size.sequences), num_drafts);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int64_t length = prompt_tokens(i) + tokens[i];
    size.cache_tokens += pages_for(length - 1) * kPageTokens;  // the last token is never run
    size.context = std::max(size.context, length);
    size.prompt = std::max(size.prompt, prompt_tokens(i));
    size.prompts += prompt_tokens(i);
  }
  return size;
}

void bench_throughput(const std::vector<BenchedEngine>& engines, const EngineBench& bench,
                      const std::function<void(const ThroughputLine&)>& take) {
  for (const int requests : bench.requests) {
    std::vector<Round> rounds(engines.size());
    for (int round = 0; round < bench.rounds; ++round) {
      for (size_t i = 0; i < engines.size(); ++i) run_round(engines[i], bench, requests, rounds[i]);
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

RunSize first_token_size(int64_t prefix) {
  const int64_t prompt = prefix + kTailTokens;
  const int64_t shared = prefix / kPageTokens * kPageTokens;
  return {.cache_tokens = 2 * pages_for(prompt + 1) * kPageTokens - shared,
          .context = prompt + 1,
          .prompt = prompt};
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
