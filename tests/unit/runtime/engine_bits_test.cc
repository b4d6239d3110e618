// What a prompt's logits must not depend on, in each family and precision.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>

#include "fulgur/engine.h"
#include "model/load.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur {
namespace {

/// Of all positions of a prompt.
using Logits = std::vector<float>;

bool same_bits(const Logits& a, const Logits& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class EngineBits : public testing::TestWithParam<std::tuple<std::string, Precision>> {
 protected:
  EngineBits()
      : model_(load_model(
            std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data" / std::get<0>(GetParam()),
            std::get<1>(GetParam()), 2)) {}

  [[nodiscard]] Engine engine(int threads, int64_t step_tokens = 512) const {
    constexpr int kPages = 16;
    return {model_,
            nullptr,
            {.threads = threads, .precision = std::get<1>(GetParam()), .num_pages = kPages},
            {.num_pages = kPages, .step_tokens = step_tokens, .prefix_cache = false}};
  }
  [[nodiscard]] std::vector<int32_t> tokens(int64_t count, uint32_t seed) const {
    std::mt19937 random(seed);
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(random() % static_cast<uint32_t>(model_.config.vocab_size));
    return tokens;
  }
  static Generation submit(Engine& engine, const std::vector<int32_t>& prompt, Logits& logits) {
    return engine.submit({.prompt = prompt,
                          .max_tokens = 0,
                          .on_prompt_logits = [&logits, vocab = engine.runner().config().vocab_size](
                                                  int64_t, int64_t rows, const float* values) {
                            logits.insert(logits.end(), values, values + rows * vocab);
                          }});
  }
  static Logits logits_of(Engine& engine, const std::vector<int32_t>& prompt) {
    Logits logits;
    submit(engine, prompt, logits).wait();
    EXPECT_EQ(std::ssize(logits), std::ssize(prompt) * engine.runner().config().vocab_size);
    return logits;
  }

  LoadedModel model_;
};

TEST_P(EngineBits, DontDependOnHowThePromptWasChunked) {
  const auto prompt = tokens(150, 1);
  Engine one = engine(1);
  const Logits whole = logits_of(one, prompt);
  for (const int64_t chunk : {1, 7, 64, 149}) {
    Engine chunked = engine(1, chunk);
    EXPECT_TRUE(same_bits(whole, logits_of(chunked, prompt))) << chunk;
  }
}

TEST_P(EngineBits, DontDependOnTheNumberOfThreads) {
  const auto prompt = tokens(100, 2);
  Engine one = engine(1);
  const Logits expected = logits_of(one, prompt);
  for (const int threads : {2, 3, 5}) {
    Engine many = engine(threads);
    EXPECT_TRUE(same_bits(expected, logits_of(many, prompt))) << threads;
  }
}

TEST_P(EngineBits, DontDependOnTheProjectionMode) {
  const auto prompt = tokens(100, 3);
  Engine one = engine(1);
  const Logits fused = logits_of(one, prompt);
  for (const IndexerProjection mode : {IndexerProjection::kSeparate, IndexerProjection::kOverlapped}) {
    one.runner().set_projection(mode);
    EXPECT_TRUE(same_bits(fused, logits_of(one, prompt)));
  }
}

TEST_P(EngineBits, DontDependOnTheNeighboursInABatch) {
  Engine one = engine(1);
  const std::vector<std::vector<int32_t>> prompts = {tokens(90, 4), tokens(3, 5), tokens(130, 6)};
  std::vector<Logits> together(prompts.size());
  std::vector<Generation> generations;
  for (size_t i = 0; i < prompts.size(); ++i) generations.push_back(submit(one, prompts[i], together[i]));
  for (Generation& generation : generations) generation.wait();
  for (size_t i = 0; i < prompts.size(); ++i)
    EXPECT_TRUE(same_bits(logits_of(one, prompts[i]), together[i])) << i;
}

INSTANTIATE_TEST_SUITE_P(Goldens, EngineBits,
                         testing::Combine(testing::Values("v32-bf16", "glm-bf16", "v3-bf16"),
                                          testing::Values(Precision::kNative, Precision::kFull)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::ranges::replace(name, '-', '_');
                           return name + (std::get<1>(info.param) == Precision::kFull ? "_full" : "_native");
                         });

}  // namespace
}  // namespace fulgur
