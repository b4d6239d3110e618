// Drafts change no answer, and those of a trained model are often right.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fulgur/engine.h"
#include "model/load.h"
#include "model/step.h"
#include "ops/backend.h"
#include "ops/mtp_input.h"
#include "runtime/choose_backend.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

const std::filesystem::path kSource = FULGUR_SOURCE_DIR;

/// Everything that requests say, in order: ids, and the logprobs of the whole vocabulary at each.
struct Said {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  bool operator==(const Said&) const = default;
};

class Speculation : public testing::TestWithParam<std::string> {
 protected:
  Engine engine(int num_drafts, const SchedulerOptions& options) const {
    return {model_, nullptr, {.num_pages = options.num_pages, .num_drafts = num_drafts}, options};
  }

  /// Greedy and sampled ones, with penalties and biases, some of which begin alike.
  std::vector<Request> requests(size_t count) {
    std::mt19937 random(7);
    const auto tokens = [&](size_t n) {
      std::vector<int32_t> ids(n);
      for (int32_t& id : ids)
        id = static_cast<int32_t>(random() % static_cast<uint32_t>(model_.config.vocab_size));
      return ids;
    };
    const std::vector<int32_t> common = tokens(200);
    std::vector<Request> all(count);
    for (size_t i = 0; i < count; ++i) {
      Request& r = all[i];
      r.prompt.assign(common.begin(), common.begin() + static_cast<std::ptrdiff_t>(i / 2 % 3 * 100));
      const std::vector<int32_t> own = tokens(1 + random() % 60);
      r.prompt.insert(r.prompt.end(), own.begin(), own.end());
      r.max_tokens = 30 + static_cast<int64_t>(random() % 50);
      r.ignore_end_tokens = true;
      r.num_logprobs = static_cast<int>(model_.config.vocab_size);
      if (i % 3 == 1) r.sampling = {.temperature = 0.7F, .top_p = 0.9F, .seed = random()};
      if (i % 3 == 2) r.sampling.repetition_penalty = 1.3F;
      if (i % 4 == 2) r.sampling.frequency_penalty = 0.4F;
      if (i % 4 == 3) r.sampling.presence_penalty = 0.7F;
      if (i % 5 == 4) r.sampling.logit_bias = {{3, 2.5F}, {9, -100.0F}};
    }
    return all;
  }

  static std::vector<Said> run(Engine& engine, std::vector<Request> requests, bool together,
                               Completion* sum = nullptr) {
    std::vector<Said> said(requests.size());
    std::vector<Generation> generations;
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].on_token = [&to = said[i]](const GeneratedToken& token) {
        to.ids.push_back(token.id);
        for (const TokenLogprob& likely : token.likeliest) to.logprobs.push_back(likely.logprob);
      };
      generations.push_back(engine.submit(requests[i]));
      if (!together) generations.back().wait();
    }
    for (Generation& generation : generations) {
      const Completion completion = generation.wait();
      if (sum == nullptr) continue;
      sum->drafted += completion.drafted;
      sum->accepted += completion.accepted;
      sum->num_preemptions += completion.num_preemptions;
      sum->cached_tokens += completion.cached_tokens;
    }
    return said;
  }

  LoadedModel model_ = load_model(kSource / GetParam(), LoadOptions{.mtp = true}, 2);
};

TEST_P(Speculation, GivesTheSameTextsAndLogprobsAsWithoutItInAnyCompany) {
  const std::vector<Request> all = requests(12);
  Engine plain = engine(0, {.num_pages = 12, .prefix_cache = false});
  const std::vector<Said> alone = run(plain, all, /*together=*/false);
  for (const int num_drafts : {1, 3}) {
    SCOPED_TRACE(num_drafts);
    Engine drafting = engine(num_drafts, {.num_pages = 12});
    Completion sum;
    EXPECT_TRUE(run(drafting, all, /*together=*/false, &sum) == alone);
    EXPECT_GT(sum.drafted, 0);
    EXPECT_GT(sum.cached_tokens, 0);
    // Few pages and small steps: prompts are cut, drafts left out, requests set back.
    Engine crowded = engine(num_drafts, {.num_pages = 6, .step_tokens = 40, .max_running = 8});
    Completion crowded_sum;
    EXPECT_TRUE(run(crowded, all, /*together=*/true, &crowded_sum) == alone);
    EXPECT_GT(crowded_sum.num_preemptions, 0);
  }
}

/// The MTP layer's logits of all pairs that run.
class MtpLogits : public StepObserver {
 public:
  [[nodiscard]] bool wants_mtp_logits() const override { return true; }
  void mtp_logits(Matrix<const float> logits) override {
    values.insert(values.end(), logits.data, logits.data + logits.rows * logits.cols);
  }
  std::vector<float> values;
};

TEST_P(Speculation, MakesOfACachedPrefixWhatItMakesOfOneThatItComputes) {
  for (const int num_drafts : {0, 1, 3}) {
    SCOPED_TRACE(num_drafts);
    const auto all_of = [&](bool prefix_cache) {
      constexpr int kPages = 16;
      return Engine(model_, nullptr, {.num_pages = kPages, .mtp = true, .num_drafts = num_drafts},
                    {.num_pages = kPages, .step_tokens = 50, .prefix_cache = prefix_cache});
    };
    Engine cached = all_of(true);
    Engine computed = all_of(false);
    Request first = requests(6)[4];  // of more than three pages
    first.max_tokens = 100;          // and a page and a half of text
    first.num_logprobs = -1;
    first.sampling = {};
    const Completion text = cached.submit(first).wait();

    Request next = first;
    next.prompt.insert(next.prompt.end(), text.ids.begin(), text.ids.end());
    const int64_t whole_pages = (std::ssize(next.prompt) - 1) / kPageTokens * kPageTokens;
    next.max_tokens = 40;
    MtpLogits after_hit;
    MtpLogits without;
    cached.runner().set_observer(&after_hit);
    computed.runner().set_observer(&without);
    const Completion hit = cached.submit(next).wait();
    const Completion whole = computed.submit(next).wait();
    EXPECT_EQ(hit.cached_tokens, whole_pages);
    EXPECT_EQ(whole.cached_tokens, 0);
    EXPECT_EQ(hit.ids, whole.ids);
    EXPECT_EQ(hit.drafted, whole.drafted);
    EXPECT_EQ(hit.accepted, whole.accepted);
    // The pairs of the cached tokens, from position 1 on, did not run.
    const auto skipped = static_cast<std::ptrdiff_t>((whole_pages - 1) * model_.config.vocab_size);
    ASSERT_GT(std::ssize(without.values), skipped);
    EXPECT_TRUE(after_hit.values ==
                std::vector<float>(without.values.begin() + skipped, without.values.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Speculation,
                         testing::Values("tests/golden/data/glm-bf16", "tests/golden/data/v3-bf16"),
                         [](const auto& info) {
                           return info.param.find("glm") != std::string::npos ? "glm" : "v3";
                         });

constexpr int32_t kPoison = 77;  // the token that a broken MTP layer can't stand

/// A back end whose MTP layer throws, or gives NaN, where it meets kPoison.
template <bool kThrows>
const Backend& broken_backend() {
  static const Backend broken = [] {
    Backend table = choose_backend();
    table.mtp_input = [](Context& context, const MtpInput& op) {
      choose_backend().mtp_input(context, op);
      for (int t = 0; t < op.batch.num_tokens; ++t) {
        if (op.batch.token[t] != kPoison) continue;
        if (kThrows) throw std::runtime_error("injected");
        const auto bytes = static_cast<size_t>(op.pair.stride) * size_bytes(op.pair.dtype);
        std::memset(static_cast<std::byte*>(op.pair.data) + static_cast<size_t>(t) * bytes, 0xFF, bytes);
      }
    };
    return table;
  }();
  return broken;
}

class SpeculationFaults : public Speculation {
 protected:
  SpeculationFaults() {
    for (Request& r : all_) {
      std::ranges::replace(r.prompt, kPoison, 1);
      r.sampling.logit_bias.emplace_back(kPoison, -100.0F);
      r.num_logprobs = -1;
      good_.push_back(good_engine_.submit(r).wait());
    }
  }
  Engine broken_engine(const Backend& backend) const {
    return {model_, nullptr, {.num_pages = 32, .num_drafts = 1, .backend = &backend}, {.num_pages = 32}};
  }
  /// With a token that breaks the layer.
  Request poisoned() const {
    Request r = all_.back();
    r.prompt[3] = kPoison;
    return r;
  }

  std::vector<Request> all_ = requests(4);
  Engine good_engine_ = engine(1, {.num_pages = 32});
  std::vector<Completion> good_;
};

TEST_P(SpeculationFaults, EndTheRequestAloneForWhichTheMtpLayerThrows) {
  Engine broken = broken_engine(broken_backend<true>());
  Generation bad = broken.submit(poisoned());
  std::vector<Generation> others;
  for (const Request& r : all_) others.push_back(broken.submit(r));
  EXPECT_THROW(bad.wait(), std::runtime_error);
  for (size_t i = 0; i < others.size(); ++i) EXPECT_EQ(others[i].wait().ids, good_[i].ids);
}

TEST_P(SpeculationFaults, LoseDraftsAloneWhereTheMtpLayerGivesNan) {
  Engine broken = broken_engine(broken_backend<false>());
  Generation bad = broken.submit(poisoned());
  std::vector<Generation> others;
  for (const Request& r : all_) others.push_back(broken.submit(r));
  const Completion text = bad.wait();
  EXPECT_EQ(text.ids, good_engine_.submit(poisoned()).wait().ids);
  EXPECT_EQ(text.drafted, 0);
  for (size_t i = 0; i < others.size(); ++i) EXPECT_EQ(others[i].wait().ids, good_[i].ids);
}

INSTANTIATE_TEST_SUITE_P(Models, SpeculationFaults, testing::Values("tests/golden/data/v3-bf16"),
                         [](const auto&) { return "v3"; });

class SpeculationOnMini : public testing::Test {
 protected:
  static Completion answer(std::optional<int> num_drafts) {
    Engine engine((kSource / "models/mini-v32").string(),
                  {.threads = 2, .cache_tokens = 256, .num_drafts = num_drafts});
    return engine
        .submit({.prompt = engine.encode("<｜begin▁of▁sentence｜>In the beginning God created the"),
                 .max_tokens = 90})
        .wait();
  }
};

TEST_F(SpeculationOnMini, IsRightAboutMostNextWordsOfProse) {
  const Completion plain = answer(0);
  EXPECT_EQ(plain.drafted, 0);
  for (const std::optional<int> num_drafts : {std::optional<int>(), std::optional<int>(2)}) {
    const Completion drafting = answer(num_drafts);
    EXPECT_EQ(drafting.text, plain.text);
    EXPECT_EQ(drafting.ids, plain.ids);
    EXPECT_GT(drafting.accepted, drafting.drafted / 2)
        << num_drafts.value_or(kDefaultDrafts) << " drafts of " << drafting.drafted;
  }
}

TEST_F(SpeculationOnMini, EndsATextWhereItWouldEndWithoutDrafts) {
  const auto completions = [](int num_drafts) {
    Engine engine((kSource / "models/mini-v32").string(),
                  {.threads = 2, .cache_tokens = 2048, .num_drafts = num_drafts});
    const std::vector<int32_t> prompt =
        engine.encode("<｜begin▁of▁sentence｜>And God said, Let there be light:");
    std::vector<Generation> generations;
    for (const float temperature : {0.0F, 0.8F}) {
      const Sampling sampling{.temperature = temperature, .seed = 11};
      for (const int64_t max_tokens : {1, 2, 3, 16, 17})
        generations.push_back(
            engine.submit({.prompt = prompt, .max_tokens = max_tokens, .sampling = sampling}));
      for (const char* stop : {" the", "God", "and", "nd the ", "."})
        generations.push_back(
            engine.submit({.prompt = prompt, .max_tokens = 60, .sampling = sampling, .stop = {stop}}));
      generations.push_back(engine.submit(
          {.prompt = prompt, .max_tokens = 60, .sampling = sampling, .stop_tokens = {46, 300}}));
    }
    std::vector<Completion> all;
    for (Generation& generation : generations) all.push_back(generation.wait());
    return all;
  };
  const std::vector<Completion> plain = completions(0);
  for (const int num_drafts : {1, 3}) {
    const std::vector<Completion> drafting = completions(num_drafts);
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_EQ(drafting[i].ids, plain[i].ids) << i;
      EXPECT_EQ(drafting[i].text, plain[i].text) << i;
      EXPECT_EQ(drafting[i].finish, plain[i].finish) << i;
    }
  }
}

TEST(SpeculationRefusal, IsForThoseAloneWhoAskForDraftsOfAModelWithoutTheLayer) {
  const std::string folder = (kSource / "tests/golden/data/v32-bf16").string();
  EXPECT_THROW(Engine(folder, {.num_drafts = 1}), Error);
  Engine engine(folder);
  const Completion text = engine.submit({.prompt = {1, 2, 3}, .max_tokens = 4}).wait();
  EXPECT_EQ(text.drafted, 0);
}

}  // namespace
}  // namespace fulgur
