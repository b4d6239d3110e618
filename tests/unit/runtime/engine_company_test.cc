// What a request is answered does not depend on its neighbours: random requests, in random company, say what
// each says alone, to the bit. FULGUR_REQUESTS=200 runs so many a line (check-long).

#include <gtest/gtest.h>

#include <cstdlib>
#include <ostream>

#include "engine_support.h"
#include "model/load.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

struct Company {
  const char* name;
  const char* model;
  Precision precision;
  CacheForms forms;
  int threads;
  int num_drafts;
  size_t count;  // of requests
};
void PrintTo(const Company& company, std::ostream* out) { *out << company.name; }

constexpr CacheForm kOwn = CacheForm::kByPrecision;
constexpr CacheForm kFp8 = CacheForm::kFp8;
constexpr Company kCompanies[] = {
    {"native", "v32-bf16", Precision::kNative, {kOwn, kOwn}, 1, 0, 24},
    {"full", "v32-fp8", Precision::kFull, {kOwn, kOwn}, 4, 0, 8},
    {"full_with_drafts", "glm-bf16", Precision::kFull, {kOwn, kOwn}, 1, 1, 8},
    {"full_with_drafts_on_2_threads", "glm-bf16", Precision::kFull, {kOwn, kOwn}, 2, 3, 8},
    {"full_with_drafts_on_4_threads", "glm-bf16", Precision::kFull, {kOwn, kOwn}, 4, 2, 8},
    {"f32_and_fp8_caches", "v32-bf16", Precision::kNative, {CacheForm::kF32, kFp8}, 2, 0, 8},
    {"fp8_caches_with_drafts", "glm-bf16", Precision::kNative, {kFp8, kFp8}, 2, 1, 8},
    {"full_with_small_caches_and_drafts", "glm-bf16", Precision::kFull, {kFp8, CacheForm::kBf16}, 4, 2, 8},
};

class EngineInCompany : public testing::TestWithParam<Company> {
 protected:
  [[nodiscard]] int64_t vocab() const { return model_.config.vocab_size; }
  [[nodiscard]] Engine engine(int threads, int num_drafts, const SchedulerOptions& options) const {
    return {model_,
            nullptr,
            {.threads = threads,
             .precision = GetParam().precision,
             .cache_forms = GetParam().forms,
             .num_pages = options.num_pages,
             .num_drafts = num_drafts},
            options};
  }

  /// Some begin alike, page by page.
  std::vector<Request> requests(size_t count) {
    const std::vector<int32_t> common = random_tokens(random_, 256, vocab());
    std::vector<Request> all;
    for (size_t i = 0; i < count; ++i) {
      Request r{.prompt = random_tokens(random_, 1 + static_cast<int64_t>(random_() % 90), vocab()),
                .max_tokens = 1 + static_cast<int64_t>(random_() % 30),
                .ignore_end_tokens = true};
      const auto prefix = static_cast<std::ptrdiff_t>(random_() % 3 * 70);
      r.prompt.insert(r.prompt.begin(), common.begin(), common.begin() + prefix);
      if (i % 3 == 0) r.sampling = {.temperature = 1, .top_p = 0.9F, .seed = random_()};
      if (i % 5 == 0) r.sampling.repetition_penalty = 1.5F;
      all.push_back(std::move(r));
    }
    return all;
  }

  std::mt19937 random_{3};
  LoadedModel model_ = load_model(golden(GetParam().model),
                                  {.precision = GetParam().precision, .mtp = GetParam().num_drafts > 0}, 2);
};

TEST_P(EngineInCompany, SaysWhatItSaysAloneWhateverRunsBesideIt) {
  size_t count = GetParam().count;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here sets the environment
  if (const char* text = std::getenv("FULGUR_REQUESTS")) count = std::stoull(text);
  const std::vector<Request> all = requests(count);
  std::vector<Said> alone(count);
  {
    Engine one = engine(1, 0, {.num_pages = 8, .prefix_cache = false});
    for (size_t i = 0; i < count; ++i) submit(one, all[i], vocab(), i % 4 == 0, alone[i]).wait();
  }
  // Few pages and small steps: prompts are cut, drafts left out, requests set back. They arrive in waves,
  // each while the second half of the one before is on its way.
  std::vector<Said> together(count);
  std::vector<Generation> generations;
  int64_t cached = 0;
  int64_t preempted = 0;
  Engine many = engine(GetParam().threads, GetParam().num_drafts,
                       {.num_pages = 9, .step_tokens = 48, .max_running = 6});
  size_t wave_begin = 0;
  size_t wave = 12;
  for (size_t i = 0; i < count; ++i) {
    generations.push_back(submit(many, all[i], vocab(), i % 4 == 0, together[i]));
    if (i + 1 < wave_begin + wave) continue;
    generations[(wave_begin + i) / 2].wait();
    wave_begin = i + 1;
    wave = 1 + random_() % 24;
  }
  for (size_t i = 0; i < count; ++i) {
    cached += generations[i].wait().cached_tokens;
    preempted += generations[i].wait().num_preemptions;
    EXPECT_EQ(static_cast<int64_t>(alone[i].ids.size()), all[i].max_tokens);
    EXPECT_TRUE(alone[i] == together[i]) << "request " << i;
  }
  if (count < 24) return;  // too few for these to be sure
  EXPECT_GT(cached, 0);
  EXPECT_GT(preempted, 0);
}

INSTANTIATE_TEST_SUITE_P(Companies, EngineInCompany, testing::ValuesIn(kCompanies),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace fulgur
