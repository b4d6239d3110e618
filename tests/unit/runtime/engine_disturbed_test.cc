// Ops that throw, requests cancelled at every stage, pages that run out: each request that isn't hit says
// what it says alone, no page is lost, and the engine runs on.

#include <gtest/gtest.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <ostream>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "fulgur/engine.h"
#include "fulgur/error.h"
#include "hooked_backend.h"
#include "model/load.h"
#include "model/step.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

using Ids = std::vector<int32_t>;

struct Subject {
  const char* name;
  const char* folder;
  int num_drafts;
  int num_points;                   // of a run at which it is disturbed
  std::vector<std::string> absent;  // ops that its steps don't need
};
void PrintTo(const Subject& subject, std::ostream* out) { *out << subject.name; }

const std::vector<Subject>& subjects() {
  static const std::vector<Subject> kSubjects = {
      {"glm", "tests/golden/data/glm-bf16", 2, 4, {"dense_mla"}},
      {"v3",
       "tests/golden/data/v3-bf16",
       1,
       4,
       {"indexer_prepare", "indexer_select", "indexer_scores", "sparse_mla"}},
      // Whose drafts are accepted. Slower.
      {"mini", "models/mini-v32", 3, 1, {"dense_mla"}}};
  return kSubjects;
}

/// How a request ended.
struct End {
  Completion completion;
  std::string error;  // its message
  bool operator==(FinishReason reason) const { return error.empty() && completion.finish == reason; }
};
void PrintTo(const End& end, std::ostream* out) {
  *out << (end.error.empty() ? name(end.completion.finish) : end.error) << " after "
       << end.completion.ids.size() << " tokens";
}

End end_of(Generation generation) {
  try {
    return {generation.wait(), ""};
  } catch (const std::exception& error) {
    return {{}, error.what()};
  }
}

/// Makes layers compute their scores too.
class ScoreWatcher : public StepObserver {
 public:
  [[nodiscard]] bool wants_scores() const override { return true; }
};

constexpr int kForEver = 1 << 30;  // failures

class DisturbedEngine : public testing::TestWithParam<Subject> {
 protected:
  static constexpr int kPages = 5;

  DisturbedEngine() {
    // Cut prompts, a waiting one, a set-back one, and two that begin alike.
    for (const auto& [prompt, text] : {std::pair(70, 12), {9, 60}, {130, 8}, {33, 20}}) {
      requests_.push_back(request(prompt, text));
    }
    std::copy_n(requests_[0].prompt.begin(), kPageTokens, requests_[2].prompt.begin());
    requests_[3].sampling = {.temperature = 0.8F, .seed = 5};
    alone_ = alone(requests_);
  }
  ~DisturbedEngine() override { BackendHook::set(nullptr); }

  Request request(int64_t prompt, int64_t max_tokens) {
    return {.prompt = tokens(prompt), .max_tokens = max_tokens, .ignore_end_tokens = true};
  }
  Ids tokens(int64_t count) {
    Ids ids(static_cast<size_t>(count));
    for (int32_t& id : ids)
      id = static_cast<int32_t>(random_() % static_cast<uint32_t>(model_.config.vocab_size));
    return ids;
  }
  /// What each says alone, without drafts.
  std::vector<Ids> alone(const std::vector<Request>& requests) const {
    Engine plain(model_, nullptr, {.num_pages = kPages}, {.num_pages = kPages, .prefix_cache = false});
    std::vector<Ids> all;
    for (const Request& r : requests) all.push_back(plain.submit(r).wait().ids);
    return all;
  }
  Engine engine(int num_pages, int max_running) const {
    return {model_,
            nullptr,
            {.num_pages = num_pages, .num_drafts = GetParam().num_drafts, .backend = &hooked_backend()},
            {.num_pages = num_pages, .step_tokens = 48, .max_running = max_running}};
  }
  Engine engine() const { return engine(kPages, 3); }

  /// All of them at once.
  static std::vector<Generation> submit(Engine& engine, const std::vector<Request>& requests) {
    const auto held = BackendHook::hold();
    std::vector<Generation> generations;
    for (const Request& r : requests) generations.push_back(engine.submit(r));
    return generations;
  }
  static std::vector<End> ends_of(const std::vector<Generation>& generations) {
    std::vector<End> ends;
    for (const Generation& generation : generations) ends.push_back(end_of(generation));
    return ends;
  }

  /// A request that needs every page ends: none is held by what has gone.
  void expect_all_pages_free(Engine& engine, int num_pages = kPages) {
    const End end = end_of(engine.submit(request(int64_t{num_pages} * kPageTokens, 1)));
    EXPECT_EQ(end, FinishReason::kLength) << testing::PrintToString(end);
  }
  void expect_as_alone(const std::vector<End>& ends, size_t i) const {
    EXPECT_EQ(ends[i], FinishReason::kLength) << "request " << i << ": " << testing::PrintToString(ends[i]);
    EXPECT_EQ(ends[i].completion.ids, alone_[i]) << "request " << i;
  }

  /// How often each entry is called until the requests have ended.
  std::map<std::string, int> calls_of_a_run(Engine& engine) const {
    std::map<std::string, int> calls;
    BackendHook::set([&](std::string_view entry) { ++calls[std::string(entry)]; });
    const std::vector<End> ends = ends_of(submit(engine, requests_));
    BackendHook::set(nullptr);
    for (size_t i = 0; i < ends.size(); ++i) expect_as_alone(ends, i);
    EXPECT_GT(ends[1].completion.drafted, 0);
    return calls;
  }

  std::mt19937 random_{11};
  LoadedModel model_ =
      load_model(std::filesystem::path(FULGUR_SOURCE_DIR) / GetParam().folder, LoadOptions{.mtp = true}, 2);
  std::vector<Request> requests_;
  std::vector<Ids> alone_;
};

TEST_P(DisturbedEngine, EndsWithAnOpThatThrowsTheRequestsOfItsStepAtMost) {
  Engine disturbed = engine();
  ScoreWatcher watcher;
  disturbed.runner().set_observer(&watcher);
  std::map<std::string, int> calls = calls_of_a_run(disturbed);
  for (size_t i = 0; i < kNumOpKinds; ++i) {
    const std::string op(name(static_cast<OpKind>(i)));
    const bool absent = std::ranges::find(GetParam().absent, op) != GetParam().absent.end();
    EXPECT_EQ(calls.contains(op), !absent) << op;
  }
  struct Fault {
    int first_call;
    int num_throws;
  };
  for (const auto& [op, count] : calls) {
    const Fault faults[] = {{count / 2, 2}, {1, 1}, {count / 3, 1}, {count * 2 / 3, kForEver}};
    for (const Fault& fault : std::span(faults).first(static_cast<size_t>(GetParam().num_points))) {
      SCOPED_TRACE(testing::Message() << op << " throws at call " << fault.first_call << " of " << count
                                      << " and " << fault.num_throws - 1 << " more");
      // An error of a back end, and two that nobody foresees.
      const size_t kind = static_cast<size_t>(&fault - faults) % 3;
      const std::string message = kind == 1 ? std::bad_alloc().what() : "The device failed in " + op + ".";
      int num_calls = 0;
      int num_throws = 0;
      BackendHook::set([&, op = std::string_view(op)](std::string_view entry) {
        if (entry != op || ++num_calls < fault.first_call || num_throws == fault.num_throws) return;
        ++num_throws;
        if (kind == 1) throw std::bad_alloc();
        if (kind == 2) throw std::runtime_error(message);
        throw Error(ErrorKind::kDevice, message);
      });
      const std::vector<End> ends = ends_of(submit(disturbed, requests_));
      BackendHook::set(nullptr);
      EXPECT_GT(num_throws, 0);
      int failed = 0;
      for (size_t i = 0; i < ends.size(); ++i) {
        if (ends[i].error.empty()) {
          expect_as_alone(ends, i);
        } else {
          EXPECT_EQ(ends[i].error, message);
          ++failed;
        }
      }
      EXPECT_LE(failed, num_throws);
      EXPECT_TRUE(failed > 0 || fault.num_throws == 1);  // a step that threw once is run again
      if (fault.num_throws == kForEver) expect_all_pages_free(disturbed);
      if (testing::Test::HasFailure()) return;
    }
  }
  const std::vector<End> after = ends_of(submit(disturbed, requests_));
  for (size_t i = 0; i < after.size(); ++i) expect_as_alone(after, i);
  expect_all_pages_free(disturbed);
}

TEST_P(DisturbedEngine, HandsEachLogitOutOnceThoughAStepIsRunAgain) {
  Engine disturbed = engine();
  int num_failed = 0;
  const auto heard_of = [&] {
    std::vector<std::vector<double>> heard(2);
    std::vector<Request> two(requests_.begin(), requests_.begin() + 2);
    for (size_t i = 0; i < two.size(); ++i) {
      two[i].max_tokens = 3;
      two[i].num_logprobs = 2;
      two[i].on_prompt_logits = [&to = heard[i], vocab = model_.config.vocab_size](
                                    int64_t first, int64_t rows, const float* logits) {
        EXPECT_EQ(std::ssize(to), first * vocab);
        to.insert(to.end(), logits, logits + rows * vocab);
      };
      two[i].on_token = [&to = heard[i]](const GeneratedToken& token) {
        to.push_back(*token.logprob);
        for (const TokenLogprob& likely : token.likeliest) to.push_back(likely.logprob);
      };
    }
    for (const End& end : ends_of(submit(disturbed, two))) num_failed += end.error.empty() ? 0 : 1;
    return heard;
  };
  const auto expected = heard_of();
  int num_steps_again = 0;
  for (const std::string_view op : {"sample", "lm_head"}) {
    for (int call = 1; call <= 5; ++call) {
      int num_calls = 0;
      num_failed = 0;
      BackendHook::set([&](std::string_view entry) {
        if (entry == op && ++num_calls == call) throw Error(ErrorKind::kDevice, "The device failed.");
      });
      const auto heard = heard_of();
      BackendHook::set(nullptr);
      if (num_failed > 0) continue;  // it had the step for itself
      ++num_steps_again;
      EXPECT_TRUE(heard == expected) << op << " call " << call;
    }
  }
  EXPECT_GT(num_steps_again, 2);
}

TEST_P(DisturbedEngine, EndsWithWhatACallbackThrewThoughAnOpOfItsStepFailsToo) {
  Engine disturbed = engine();
  for (const int num_throws : {1, kForEver}) {
    for (const size_t others : {0U, 1U, 2U}) {
      SCOPED_TRACE(testing::Message() << others << " others, " << num_throws << " failures");
      std::vector<Request> all(requests_.begin(), requests_.begin() + 1 + static_cast<int64_t>(others));
      int num_asked = 0;
      int num_failures = 0;
      all[0].on_prompt_logits = [&](int64_t, int64_t, const float*) {
        ++num_asked;
        throw std::runtime_error("The disk is full.");
      };
      BackendHook::set([&](std::string_view entry) {
        if (entry != "sample" && entry != "mtp_input") return;
        if (num_asked == 0 || num_failures == num_throws) return;
        ++num_failures;
        throw Error(ErrorKind::kDevice, "The device failed.");
      });
      const std::vector<End> ends = ends_of(submit(disturbed, all));
      BackendHook::set(nullptr);
      EXPECT_EQ(ends[0].error, "The disk is full.");
      EXPECT_EQ(num_asked, 1);
      EXPECT_GT(num_failures, 0);
      if (num_throws == kForEver) continue;
      for (size_t i = 1; i < ends.size(); ++i) expect_as_alone(ends, i);
    }
  }
}

TEST_P(DisturbedEngine, EndsACancelledRequestAtAnyCallOfAStepAndTheOthersGoOn) {
  Engine disturbed = engine();
  std::map<std::string, int> calls = calls_of_a_run(disturbed);
  struct Point {
    int percent;  // of a run's calls
    size_t victim;
  };
  constexpr Point kPoints[] = {{50, 1}, {4, 2}, {15, 0}, {35, 3}};
  int cancelled = 0;
  for (const std::string op : {"embed", "attention_prepare", "sample", "mtp_input", "download"}) {
    for (const auto& [percent, victim] :
         std::span(kPoints).first(static_cast<size_t>(GetParam().num_points))) {
      const int at = 1 + calls[op] * percent / 100;
      SCOPED_TRACE(testing::Message() << "request " << victim << " cancelled at call " << at << " of " << op);
      std::vector<Generation> generations;
      int num_calls = 0;
      BackendHook::set([&, op = std::string_view(op)](std::string_view entry) {
        if (entry == op && ++num_calls == at) generations[victim].cancel();
      });
      {
        const auto held = BackendHook::hold();
        for (const Request& r : requests_) generations.push_back(disturbed.submit(r));
      }
      const std::vector<End> ends = ends_of(generations);
      BackendHook::set(nullptr);
      for (size_t i = 0; i < ends.size(); ++i) {
        if (i != victim || ends[i] == FinishReason::kLength) {
          expect_as_alone(ends, i);
          continue;
        }
        EXPECT_EQ(ends[i], FinishReason::kCancelled);
        const Ids& ids = ends[i].completion.ids;
        EXPECT_LT(ids.size(), alone_[i].size());
        EXPECT_TRUE(std::equal(ids.begin(), ids.end(), alone_[i].begin()));
        ++cancelled;
      }
      if (victim == 1) expect_all_pages_free(disturbed);
      if (testing::Test::HasFailure()) return;
    }
  }
  EXPECT_GT(cancelled, 3 * GetParam().num_points);  // of 5; a short one may have ended by then
}

TEST_P(DisturbedEngine, EndsARequestThatIsCancelledBetweenTheChunksOfItsPrompt) {
  Engine disturbed = engine();
  Generation generation = disturbed.submit(requests_[0]);
  generation.wait();
  int64_t positions = 0;
  Request cut = requests_[2];
  cut.on_prompt_logits = [&](int64_t first, int64_t rows, const float*) {
    positions = first + rows;
    if (first > 0) generation.cancel();
  };
  {
    const auto held = BackendHook::hold();
    generation = disturbed.submit(cut);
  }
  const End end = end_of(generation);
  EXPECT_EQ(end, FinishReason::kCancelled);
  EXPECT_TRUE(end.completion.ids.empty());
  EXPECT_EQ(positions, 96);  // two steps' tokens
  expect_all_pages_free(disturbed);
}

TEST_P(DisturbedEngine, SaysNothingMoreAfterTheTokenAtWhichItIsCancelled) {
  Engine disturbed = engine();
  for (const size_t last : {size_t{1}, size_t{7}, size_t{30}, requests_[1].max_tokens + size_t{0}}) {
    Ids heard;
    std::vector<Generation> generation;
    Request r = requests_[1];
    r.on_token = [&](const GeneratedToken& token) {
      heard.push_back(token.id);
      if (heard.size() == last) generation.front().cancel();
    };
    {
      const auto held = BackendHook::hold();
      generation.push_back(disturbed.submit(r));
    }
    const End end = end_of(generation.front());
    const bool whole = last == alone_[1].size();
    EXPECT_EQ(end, whole ? FinishReason::kLength : FinishReason::kCancelled);
    EXPECT_EQ(heard, Ids(alone_[1].begin(), alone_[1].begin() + static_cast<std::ptrdiff_t>(last)));
    EXPECT_EQ(end.completion.ids, heard);
  }
  expect_all_pages_free(disturbed);
}

TEST_P(DisturbedEngine, KeepsTheEndOfARequestThatIsCancelledAfterIt) {
  Engine disturbed = engine();
  Generation generation = disturbed.submit(requests_[0]);
  generation.wait();
  generation.cancel();
  generation.cancel();
  expect_as_alone({end_of(generation)}, 0);
  expect_all_pages_free(disturbed);
}

TEST_P(DisturbedEngine, EndsARequestThatIsCancelledWhileItIsSetBack) {
  constexpr int kFewPages = 3;
  Engine disturbed = engine(kFewPages, 2);
  std::vector<Request> two = {request(60, 70), request(60, 70)};
  const std::vector<Ids> texts = alone(two);
  std::vector<Generation> generations;
  size_t older_since = 0;  // tokens of the older one since the younger one's last
  size_t younger = 0;
  const auto longest_step = static_cast<size_t>(GetParam().num_drafts) + 1;
  two[0].on_token = [&](const GeneratedToken&) {
    if (younger > 0 && ++older_since == 2 * longest_step + 1) generations[1].cancel();
  };
  two[1].on_token = [&](const GeneratedToken&) {
    ++younger;
    older_since = 0;
  };
  {
    const auto held = BackendHook::hold();
    for (const Request& r : two) generations.push_back(disturbed.submit(r));
  }
  const std::vector<End> ends = ends_of(generations);
  EXPECT_EQ(ends[0].completion.ids, texts[0]);
  EXPECT_EQ(ends[1], FinishReason::kCancelled);
  EXPECT_EQ(ends[1].completion.ids.size(), younger);
  EXPECT_GT(younger, 0U);
  EXPECT_LT(younger, texts[1].size());
  EXPECT_TRUE(std::equal(ends[1].completion.ids.begin(), ends[1].completion.ids.end(), texts[1].begin()));
  expect_all_pages_free(disturbed, kFewPages);
}

TEST_P(DisturbedEngine, GivesEachRequestItsTextWhenPagesRunOut) {
  constexpr int kFewPages = 3;
  Engine disturbed = engine(kFewPages, 8);
  std::vector<Request> all;
  for (int i = 0; i < 10; ++i) all.push_back(request(1 + static_cast<int64_t>(random_() % 62), 66));
  alone_ = alone(all);
  for (const size_t count : {2, 3, 10}) {
    const std::vector<End> ends =
        ends_of(submit(disturbed, {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count)}));
    int64_t preempted = 0;
    for (size_t i = 0; i < count; ++i) {
      expect_as_alone(ends, i);
      preempted += ends[i].completion.num_preemptions;
    }
    EXPECT_GT(preempted, 0) << count << " requests";
    expect_all_pages_free(disturbed, kFewPages);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, DisturbedEngine, testing::ValuesIn(subjects()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fulgur
