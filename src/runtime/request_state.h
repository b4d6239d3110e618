#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "fulgur/engine.h"
#include "model/config.h"
#include "runtime/batch_plan.h"
#include "runtime/logit_adjustment.h"
#include "runtime/step_runner.h"
#include "runtime/stop_filter.h"
#include "tokenizer/tokenizer.h"

namespace fulgur {

/// One request between submit() and its end: what it has brought forth, whether it is to stop, and the way
/// from the engine's thread to whoever waits for it.
class RequestState {
 public:
  /// The request has been validated. Refers to the tokenizer (or null).
  RequestState(Request request, const Config& config, const Tokenizer* tokenizer);

  /// Once, before the engine's thread sees it.
  void set_id(RequestId id) { id_ = id; }
  [[nodiscard]] RequestId id() const { return id_; }
  /// Without its sampling, and without its prompt once that was taken.
  [[nodiscard]] const Request& request() const { return request_; }
  std::vector<int32_t> take_prompt() { return std::exchange(request_.prompt, {}); }

  // The engine's thread.

  /// What the step is to make of its chunk; valid until the step has run. Logprobs of its tokens are appended
  /// to `likeliest`.
  ChunkOutput output(const PlannedChunk& chunk, std::vector<TokenLogprob>& likeliest);
  void admitted(int64_t cached_tokens);
  /// A step looked at so many drafts.
  void verified(int64_t drafted, int64_t accepted) {
    completion_.drafted += drafted;
    completion_.accepted += accepted;
  }
  /// What its on_prompt_logits threw, or null. The request is then not asked again, and is to end.
  [[nodiscard]] const std::exception_ptr& callback_error() const { return callback_error_; }
  /// Takes the tokens of a step, and their logprobs from where the step put them. Says why it is to end, if
  /// it is.
  std::optional<FinishReason> take(std::span<const int32_t> drawn, std::span<const TokenLogprob> likeliest);
  /// It is about to take tokens.
  void prefetch() const {
    constexpr size_t kLine = 64;
    for (size_t at = 0; at < sizeof(*this); at += kLine)
      __builtin_prefetch(reinterpret_cast<const char*>(this) + at, /*rw=*/1);
  }
  void finish(FinishReason reason) noexcept;
  void fail(std::exception_ptr error) noexcept;
  [[nodiscard]] bool cancelled() const { return cancelled_; }

  // Any thread.

  std::optional<GeneratedToken> next();
  Completion wait();
  void cancel() { cancelled_ = true; }

 private:
  using Clock = std::chrono::steady_clock;

  struct DrawnLogprob {
    double of_token;
    size_t first;  // of the likeliest beside it, in the step's
  };

  /// The text that a token lets out, `last` if none comes after it.
  std::string text_of(int32_t token, bool last);
  void deliver(GeneratedToken token);
  template <typename With>
  void end(With&& with) noexcept;

  RequestId id_ = 0;
  Request request_;
  const SamplingParams sampling_;
  std::vector<int32_t> end_tokens_;
  int32_t num_texts_ = 0;  // ids below it have a text
  LogitAdjustment adjustment_;
  std::optional<IncrementalDecoder> decoder_;
  StopFilter stop_;
  int64_t logits_delivered_ = 0;  // positions of the prompt
  std::exception_ptr callback_error_;
  std::vector<DrawnLogprob> logprobs_;  // of the step's tokens, if they are wanted
  const Clock::time_point submitted_ = Clock::now();
  Clock::time_point first_token_;
  int64_t cached_tokens_ = 0;
  int64_t num_admissions_ = 0;
  std::atomic<bool> cancelled_ = false;

  std::mutex mutex_;                   // guards what follows
  std::condition_variable has_token_;  // or has ended
  std::condition_variable has_ended_;  // whoever waits for that alone isn't woken by each token
  std::deque<GeneratedToken> tokens_;  // not taken yet
  Completion completion_;
  std::exception_ptr error_;
  bool ended_ = false;
};

}  // namespace fulgur
