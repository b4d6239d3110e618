#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "fulgur/engine.h"

namespace fulgur {

inline std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data" / name;
}

inline std::vector<int32_t> random_tokens(std::mt19937& random, int64_t count, int64_t vocab) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  return tokens;
}

/// All that a request says: its tokens with the logprobs of the whole vocabulary, the logits of its prompt.
struct Said {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  std::vector<float> prompt_logits;
  bool operator==(const Said&) const = default;
};

/// Submits it so that `said` hears everything.
inline Generation submit(Engine& engine, Request request, int64_t vocab, bool prompt_logits, Said& said) {
  request.num_logprobs = static_cast<int>(vocab);
  request.on_token = [&said](const GeneratedToken& token) {
    said.ids.push_back(token.id);
    for (const TokenLogprob& likely : token.likeliest) {
      said.logprobs.push_back(likely.id);
      said.logprobs.push_back(likely.logprob);
    }
  };
  if (prompt_logits) {
    request.on_prompt_logits = [&said, vocab](int64_t first, int64_t rows, const float* logits) {
      EXPECT_EQ(static_cast<int64_t>(said.prompt_logits.size()), first * vocab);
      said.prompt_logits.insert(said.prompt_logits.end(), logits, logits + rows * vocab);
    };
  }
  return engine.submit(std::move(request));
}

}  // namespace fulgur
