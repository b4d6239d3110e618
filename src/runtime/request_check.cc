#include "runtime/request_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

[[noreturn]] void refuse(std::string message, std::string expected, std::string found, std::string todo) {
  throw Error(Problem{.kind = ErrorKind::kBadRequest,
                      .message = std::move(message),
                      .expected = std::move(expected),
                      .found = std::move(found),
                      .todo = std::move(todo)});
}

void check_token(int64_t token, const Config& config, const char* todo) {
  if (token >= 0 && token < config.vocab_size) return;
  refuse(fmt::format("Token id {} is not in the model's vocabulary.", token),
         fmt::format("0 to {}", config.vocab_size - 1), fmt::format("{}", token), todo);
}

void check_number(std::string_view what, double value, double least, double most) {
  if (value >= least && value <= most) return;  // false for a NaN
  refuse(fmt::format("{} is out of range.", what), fmt::format("{:g} to {:g}", least, most),
         fmt::format("{:g}", value), "change it");
}

}  // namespace

void check_sampling(const Sampling& s, const Config& config) {
  constexpr double kMost = 100;
  check_number("temperature", s.temperature, 0, kMost);
  check_number("top_k", s.top_k, 0, static_cast<double>(int64_t{1} << 30));
  check_number("top_p", s.top_p, 0, 1);
  check_number("min_p", s.min_p, 0, 1);
  check_number("repetition_penalty", s.repetition_penalty, 0.01F, kMost);
  check_number("frequency_penalty", s.frequency_penalty, -kMost, kMost);
  check_number("presence_penalty", s.presence_penalty, -kMost, kMost);
  for (const auto& [token, bias] : s.logit_bias) {
    check_token(token, config, "give biases to ids of this model's tokenizer");
    check_number(fmt::format("The bias of token {}", token), bias, -kMost, kMost);
  }
}

void check_tokens(std::span<const int32_t> tokens, const Config& config, bool has_tokenizer) {
  const char* todo = has_tokenizer ? "use ids of this model's tokenizer (fulgur tokenize, Engine::encode)"
                                   : "use ids of this model's vocabulary";
  for (const int32_t token : tokens) check_token(token, config, todo);
}

int64_t most_cached_tokens(const Request& request) {
  // The last new token is drawn and never run.
  return static_cast<int64_t>(request.prompt.size()) + std::max<int64_t>(0, request.max_tokens - 1);
}

void check_request(const Request& request, const Config& config, bool has_tokenizer) {
  if (request.prompt.empty()) refuse("The prompt is empty.", "at least one token", "none", "begin with BOS");
  check_tokens(request.prompt, config, has_tokenizer);
  check_number("max_tokens", static_cast<double>(request.max_tokens), 0,
               static_cast<double>(int64_t{1} << 40));
  const int64_t length = static_cast<int64_t>(request.prompt.size()) + request.max_tokens;
  if (length > config.max_position_embeddings) {
    refuse("The prompt and the new tokens don't fit the model's positions.",
           fmt::format("at most max_position_embeddings = {}", config.max_position_embeddings),
           fmt::format("{} prompt tokens and {} new ones", request.prompt.size(), request.max_tokens),
           "shorten the prompt or ask for fewer tokens");
  }
  for (const int32_t token : request.stop_tokens)
    check_token(token, config, "stop at ids of this model's tokenizer");
  const auto is_empty = [](const std::string& text) { return text.empty(); };
  if (std::ranges::any_of(request.stop, is_empty)) {
    refuse("A stop string is empty.", "texts of at least one byte", "an empty one", "leave it away");
  }
  for (const std::string& text : request.stop) {  // texts are let out in whole characters
    const size_t at = find_invalid_utf8(text);
    if (at == std::string::npos) continue;
    refuse("A stop string is not valid UTF-8.", "texts of whole characters",
           fmt::format("byte {:#04x} at {}", static_cast<uint8_t>(text[at]), at), "give the whole character");
  }
  if (!request.stop.empty() && !has_tokenizer) {
    refuse("This model has no tokenizer.json, so it can't stop at a text.", "stop_tokens alone",
           fmt::format("{} stop strings", request.stop.size()), "name the ids at which to stop");
  }
  check_number("num_logprobs", request.num_logprobs, -1, static_cast<double>(config.vocab_size));
  check_sampling(request.sampling, config);
}

}  // namespace fulgur
