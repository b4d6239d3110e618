// Random schedules against a fake model and a virtual clock. The "cache content" of a token is a hash of all
// tokens up to it, made from the content before it as the pages have it: a page that is shared wrongly,
// written by two or given away too early is seen by whoever reads it next.
//
// FULGUR_SCHEDULES=10000 runs so many (check-long); FULGUR_SCHEDULE_SEED=N runs the one that failed again.

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <map>
#include <random>
#include <set>
#include <string>

#include "runtime/scheduler.h"

namespace fulgur {
namespace {

constexpr int kSchedules = 1000;   // in `make check`
constexpr int kMostSteps = 20000;  // more: somebody starves

uint64_t extend(uint64_t content, int32_t token) {
  uint64_t x = (content ^ static_cast<uint32_t>(token)) + 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  return x ^ (x >> 27);
}

/// What the fake model says after a prefix: few different tokens, so that texts meet again.
int32_t next_token(uint64_t content) { return static_cast<int32_t>(content % 2); }

/// Sends nearly all prefixes to the same places.
uint64_t weak_hash(uint64_t parent, std::span<const int32_t> tokens) {
  return chain_hash(parent, tokens) & 3;
}

/// What happened, so that nobody takes schedules in which nothing happens for a proof.
struct Events {
  int64_t steps = 0;
  int64_t preempted = 0;
  int64_t cached_tokens = 0;
  int64_t drafts_right = 0;
  int64_t drafts_wrong = 0;
  int64_t cancelled_running = 0;
  int64_t cancelled_waiting = 0;
};

class Simulation {
 public:
  Simulation(uint64_t seed, Events& events)
      : events_(events), random_(seed), options_(draw_options()), cache_(pages()) {}

  void run() {
    Scheduler scheduler(options_, chance(30) ? weak_hash : chain_hash);
    const int num_requests = between(1, 20);
    const int span = between(1, 60);  // of virtual time in which they arrive
    std::multiset<int> arrivals;
    for (int i = 0; i < num_requests; ++i) arrivals.insert(between(0, span));

    int now = 0;
    for (; !arrivals.empty() || !live_.empty(); ++now) {
      ASSERT_LT(now, kMostSteps) << "a request doesn't end";
      for (; !arrivals.empty() && *arrivals.begin() <= now; arrivals.erase(arrivals.begin()))
        arrive(scheduler, now);
      cancel_some(scheduler, now);
      step(scheduler);
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_TRUE(scheduler.empty());
    EXPECT_EQ(scheduler.pages().num_available(), options_.num_pages) << "pages leaked";
  }

 private:
  struct Request {
    std::vector<int32_t> tokens;    // known
    std::vector<uint64_t> content;  // of each
    std::vector<int32_t> drafts;
    int64_t length = 0;  // at which it ends
    int64_t computed = 0;
    bool running = false;
    int cancel_at = -1;
  };
  using Content = std::array<uint64_t, kPageTokens>;

  bool chance(int percent) { return between(1, 100) <= percent; }
  int between(int least, int most) {
    return least + static_cast<int>(random_() % static_cast<uint64_t>(most - least + 1));
  }
  size_t pages() const { return static_cast<size_t>(options_.num_pages); }

  SchedulerOptions draw_options() {
    return {.num_pages = between(2, 12),
            .step_tokens = chance(20) ? between(1, 8) : between(20, 300),
            .max_running = between(1, 8),
            .prefix_cache = chance(85)};
  }

  static void append(Request& request, int32_t token) {
    request.content.push_back(extend(request.content.empty() ? 0 : request.content.back(), token));
    request.tokens.push_back(token);
  }

  void arrive(Scheduler& scheduler, int now) {
    Request request;
    const int most = options_.num_pages * kPageTokens;
    const int new_tokens = between(1, std::min(150, most - 1));
    int prompt = between(1, std::min(400, most - new_tokens));
    if (prompt > kPageTokens && chance(40)) prompt -= prompt % kPageTokens;
    // Some of one of eight texts, whose pages are of two kinds; then something of its own.
    const int text = between(0, 7);
    const int common = chance(40) ? prompt : between(0, prompt);
    for (int i = 0; i < prompt; ++i)
      append(request, i < common ? (text >> (i / kPageTokens % 3)) & 1 : between(0, 50));
    request.length = prompt + new_tokens;
    ASSERT_TRUE(scheduler.fits(request.length));
    if (chance(15)) request.cancel_at = now + between(0, 40);
    const RequestId id = next_id_++;
    scheduler.add(id, request.tokens, chance(90));
    live_.emplace(id, std::move(request));
  }

  void end(Scheduler& scheduler, RequestId id) {
    scheduler.remove(id);
    live_.erase(id);
  }

  void cancel_some(Scheduler& scheduler, int now) {
    for (auto at = live_.begin(); at != live_.end();) {
      const auto& [id, request] = *at++;
      if (request.cancel_at != now) continue;
      ++(request.running ? events_.cancelled_running : events_.cancelled_waiting);
      end(scheduler, id);
    }
  }

  void step(Scheduler& scheduler) {
    const BatchPlan plan = scheduler.plan();
    ++events_.steps;
    events_.preempted += static_cast<int64_t>(plan.preempted.size());
    for (const auto& admission : plan.admitted) events_.cached_tokens += admission.cached_tokens;
    check_queue(scheduler, plan);
    check_pages(scheduler);
    if (testing::Test::HasFatalFailure()) return;
    for (const PlannedChunk& chunk : plan.chunks) check_chunk(scheduler, chunk);
    if (testing::Test::HasFatalFailure()) return;
    std::vector<ChunkResult> results;
    for (const PlannedChunk& chunk : plan.chunks) results.push_back(compute(chunk));
    if (chance(3)) {  // the step failed, and perhaps somebody with it
      if (!plan.chunks.empty() && chance(50)) end(scheduler, plan.chunks.back().request);
      return;
    }
    for (const PlannedChunk& chunk : plan.chunks) {
      if (chance(1)) end(scheduler, chunk.request);  // one of its scores was NaN
    }
    scheduler.complete(plan, results);
    for (size_t i = 0; i < plan.chunks.size(); ++i) take_results(scheduler, plan.chunks[i], results[i]);
  }

  /// Budget, order, who was admitted and who set back.
  void check_queue(const Scheduler& scheduler, const BatchPlan& plan) {
    for (const RequestId id : plan.preempted) {
      Request& request = live_.at(id);
      ASSERT_TRUE(request.running);
      for (const auto& [other, it] : live_)
        ASSERT_FALSE(it.running && other > id) << "not the youngest was set back";
      request.running = false;
      request.computed = 0;
      request.drafts.clear();
    }
    for (const BatchPlan::Admission& admission : plan.admitted) {
      for (const auto& [other, it] : live_) {
        ASSERT_EQ(it.running, other < admission.request) << "not in order of arrival";
        if (other >= admission.request) break;
      }
      Request& request = live_.at(admission.request);
      request.running = true;
      request.computed = admission.cached_tokens;
      ASSERT_LT(admission.cached_tokens, static_cast<int64_t>(request.tokens.size()));
      ASSERT_TRUE(options_.prefix_cache || admission.cached_tokens == 0);
    }
    ASSERT_LE(plan.num_tokens(), options_.step_tokens);
    ASSERT_LE(static_cast<int>(scheduler.num_running()), options_.max_running);
    ASSERT_EQ(plan.chunks.empty(), live_.empty());
    if (!live_.empty()) {
      ASSERT_EQ(plan.chunks.front().request, live_.begin()->first) << "the oldest must go on";
    }
    ASSERT_TRUE(std::ranges::is_sorted(plan.chunks, std::less_equal(), &PlannedChunk::request));
  }

  /// Every page is held as often as sequences name it.
  void check_pages(const Scheduler& scheduler) {
    std::vector<int> holders(pages(), 0);
    for (const auto& [id, request] : live_) {
      const std::span<const int32_t> held = scheduler.pages_of(id);
      ASSERT_TRUE(request.running || held.empty());
      for (const int32_t page : held) ++holders[static_cast<size_t>(page)];
    }
    for (size_t page = 0; page < pages(); ++page)
      ASSERT_EQ(scheduler.pages().num_holders(static_cast<int>(page)), holders[page]);
    ASSERT_EQ(scheduler.pages().num_available(), std::ranges::count(holders, 0));
  }

  void check_chunk(const Scheduler& scheduler, const PlannedChunk& chunk) {
    const Request& request = live_.at(chunk.request);
    ASSERT_EQ(chunk.first, request.computed);
    const int64_t known = static_cast<int64_t>(chunk.tokens.size()) - chunk.num_drafts;
    ASSERT_GE(known, 1);
    ASSERT_LE(chunk.first + known, static_cast<int64_t>(request.tokens.size()));
    ASSERT_TRUE(
        std::equal(chunk.tokens.begin(), chunk.tokens.begin() + known, request.tokens.begin() + chunk.first));
    ASSERT_EQ(chunk.draws, chunk.first + known == static_cast<int64_t>(request.tokens.size()));
    ASSERT_LE(chunk.num_drafts, chunk.draws ? static_cast<int>(request.drafts.size()) : 0);
    ASSERT_TRUE(std::equal(chunk.tokens.begin() + known, chunk.tokens.end(), request.drafts.begin()));
    for (int64_t at = 0; at < chunk.first; ++at)
      ASSERT_EQ(slot(chunk, at), request.content[static_cast<size_t>(at)]) << "at position " << at;
    const int64_t end = chunk.first + static_cast<int64_t>(chunk.tokens.size());
    ASSERT_LE(end, static_cast<int64_t>(chunk.pages.size()) * kPageTokens);
    for (int64_t page = chunk.first / kPageTokens; page * kPageTokens < end; ++page)
      ASSERT_EQ(scheduler.pages().num_holders(chunk.pages[static_cast<size_t>(page)]), 1)
          << "a shared page is written";
  }

  uint64_t& slot(const PlannedChunk& chunk, int64_t position) {
    const int32_t page = chunk.pages[static_cast<size_t>(position / kPageTokens)];
    return cache_[static_cast<size_t>(page)][static_cast<size_t>(position % kPageTokens)];
  }

  /// The fake model: fills the caches, verifies the drafts, draws.
  ChunkResult compute(const PlannedChunk& chunk) {
    ChunkResult result;
    const auto count = static_cast<int64_t>(chunk.tokens.size());
    bool right = true;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = chunk.first + i;
      const uint64_t content =
          extend(at == 0 ? 0 : slot(chunk, at - 1), chunk.tokens[static_cast<size_t>(i)]);
      slot(chunk, at) = content;
      if (!chunk.draws || i + 1 < count - chunk.num_drafts || !right) continue;
      result.drawn.push_back(next_token(content));
      right = i + 1 < count && chunk.tokens[static_cast<size_t>(i) + 1] == result.drawn.back();
    }
    if (chunk.draws) {
      const Request& request = live_.at(chunk.request);
      const int64_t known = static_cast<int64_t>(request.tokens.size() + result.drawn.size());
      const int64_t room = request.length - known - 1;
      for (int64_t i = between(0, 3); i > 0 && static_cast<int64_t>(result.drafts.size()) < room; --i)
        result.drafts.push_back(between(0, 1));
    }
    return result;
  }

  void take_results(Scheduler& scheduler, const PlannedChunk& chunk, const ChunkResult& result) {
    const auto found = live_.find(chunk.request);
    if (found == live_.end()) return;
    Request& request = found->second;
    request.computed += static_cast<int64_t>(chunk.tokens.size()) - chunk.num_drafts;
    for (const int32_t token : result.drawn) {
      ASSERT_EQ(token, next_token(request.content.back())) << "not what it says alone";
      append(request, token);
    }
    if (!chunk.draws) return;
    const auto right = static_cast<int64_t>(result.drawn.size()) - 1;
    events_.drafts_right += right;
    events_.drafts_wrong += chunk.num_drafts - right;
    request.computed += right;
    request.drafts = result.drafts;
    ASSERT_LE(static_cast<int64_t>(request.tokens.size()), request.length);
    ASSERT_LE((scheduler.pages_of(chunk.request).size() - 1) * kPageTokens, request.tokens.size())
        << "pages of wrong drafts are kept";
    if (static_cast<int64_t>(request.tokens.size()) == request.length) end(scheduler, chunk.request);
  }

  Events& events_;
  std::mt19937_64 random_;
  SchedulerOptions options_;
  std::vector<Content> cache_;
  std::map<RequestId, Request> live_;
  RequestId next_id_ = 0;
};

std::string repeats;  // how to repeat the schedule that runs

/// Says it where the schedule ends the process.
void say_repeats(int signal) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, repeats.data(), repeats.size());
  raise(signal);
}

TEST(SchedulerSimulation, EveryRequestEndsInOrderAndNoPageIsLeakedOrSharedWrongly) {
  uint64_t first = 1;
  uint64_t count = kSchedules;
  if (const char* text = std::getenv("FULGUR_SCHEDULES")) count = std::stoull(text);
  if (const char* text = std::getenv("FULGUR_SCHEDULE_SEED")) {
    first = std::stoull(text);
    count = 1;
  }
  for (const int signal : {SIGSEGV, SIGFPE, SIGABRT}) {
    struct sigaction action {};
    action.sa_handler = say_repeats;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
    sigaction(signal, &action, nullptr);
  }
  Events events;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    repeats = "FULGUR_SCHEDULE_SEED=" + std::to_string(seed) + " repeats it\n";
    try {
      Simulation(seed, events).run();
    } catch (const std::exception& error) {
      FAIL() << error.what() << "\n" << repeats;
    }
    ASSERT_FALSE(HasFailure()) << repeats;
  }
  if (count < kSchedules) return;
  const auto schedules = static_cast<int64_t>(count);
  EXPECT_GT(events.steps, 10 * schedules);
  EXPECT_GT(events.preempted, schedules / 2);
  EXPECT_GT(events.cached_tokens, kPageTokens * schedules);
  EXPECT_GT(events.drafts_right, schedules);
  EXPECT_GT(events.drafts_wrong, schedules);
  EXPECT_GT(events.cancelled_running, schedules / 10);
  EXPECT_GT(events.cancelled_waiting, schedules / 10);
}

}  // namespace
}  // namespace fulgur
