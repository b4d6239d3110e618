#include "runtime/request_state.h"

#include <algorithm>
#include <utility>

#include "runtime/logprobs.h"

namespace fulgur {
namespace {

SamplingParams params_of(const Sampling& s) {
  return {.temperature = s.temperature, .top_k = s.top_k, .top_p = s.top_p, .min_p = s.min_p, .seed = s.seed};
}

}  // namespace

std::string_view name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "";
}

RequestState::RequestState(Request request, const Config& config, const Tokenizer* tokenizer)
    : request_(std::move(request)),
      sampling_(params_of(request_.sampling)),
      end_tokens_(request_.stop_tokens),
      adjustment_(std::exchange(request_.sampling, {}), request_.prompt),
      stop_(request_.stop) {
  if (!request_.ignore_end_tokens) {
    for (const int64_t token : config.eos_token_ids) end_tokens_.push_back(static_cast<int32_t>(token));
  }
  if (tokenizer != nullptr) {
    decoder_.emplace(*tokenizer);
    num_texts_ = tokenizer->num_ids();
  }
  completion_.prompt_tokens = static_cast<int64_t>(request_.prompt.size());
}

ChunkOutput RequestState::output(const PlannedChunk& chunk, std::vector<TokenLogprob>& likeliest) {
  ChunkOutput output;
  output.sampling = sampling_;
  if (request_.on_prompt_logits && logits_delivered_ < completion_.prompt_tokens) {
    output.logits_from = logits_delivered_;
    output.on_logits = [this](int64_t first, Matrix<const float> logits) {
      if (callback_error_) return;
      try {
        request_.on_prompt_logits(first, logits.rows, logits.data);
        logits_delivered_ = first + logits.rows;  // so that none comes twice if it is set back
      } catch (...) {                             // no matter of the others in the step
        callback_error_ = std::current_exception();
      }
    };
  }
  if (adjustment_.active()) {
    output.adjust = [this, &chunk](int num_drafts, std::span<float> logits) {
      const auto drafts = std::span(chunk.tokens).last(static_cast<size_t>(chunk.num_drafts));
      adjustment_.apply(logits, drafts.first(static_cast<size_t>(num_drafts)));
    };
  }
  logprobs_.clear();
  if (request_.num_logprobs >= 0) {
    output.on_drawn = [this, &likeliest](int32_t token, std::span<const float> logits) {
      const size_t first = likeliest.size();
      logprobs_.push_back({logprobs_of(logits, token, request_.num_logprobs, likeliest), first});
    };
  }
  return output;
}

void RequestState::admitted(int64_t cached_tokens) {
  if (num_admissions_++ == 0)
    cached_tokens_ = cached_tokens;  // later ones may be its own, of before a set-back
}

std::optional<FinishReason> RequestState::take(std::span<const int32_t> drawn,
                                               std::span<const TokenLogprob> likeliest) {
  if (request_.max_tokens == 0) return FinishReason::kLength;
  for (size_t i = 0; i < drawn.size(); ++i) {
    const int32_t id = drawn[i];
    if (completion_.ids.empty()) first_token_ = Clock::now();
    completion_.ids.push_back(id);
    adjustment_.add(id);
    const bool stopped_by_token = std::ranges::find(end_tokens_, id) != end_tokens_.end();
    const bool full = static_cast<int64_t>(completion_.ids.size()) == request_.max_tokens;
    GeneratedToken token{.id = id};
    token.text = text_of(stopped_by_token ? -1 : id, stopped_by_token || full);
    if (request_.num_logprobs >= 0) {
      token.logprob = logprobs_[i].of_token;
      const auto own = likeliest.subspan(logprobs_[i].first, static_cast<size_t>(request_.num_logprobs));
      token.likeliest.assign(own.begin(), own.end());
    }
    const bool stopped = stopped_by_token || stop_.stopped();
    deliver(std::move(token));
    if (stopped) return FinishReason::kStop;
    if (full) return FinishReason::kLength;
    // By its on_token say, which then hears of no draft that was right behind it.
    if (cancelled_) return FinishReason::kCancelled;
  }
  return std::nullopt;
}

std::string RequestState::text_of(int32_t token, bool last) {
  if (!decoder_) return "";
  std::string text;
  // Rows that pad the vocabulary have no text.
  if (token >= 0 && token < num_texts_) text = stop_.push(decoder_->push(token));
  if (last) {
    text += stop_.push(decoder_->finish());
    text += stop_.finish();
  }
  return text;
}

void RequestState::deliver(GeneratedToken token) {
  completion_.text += token.text;
  if (request_.on_token) return request_.on_token(token);
  {
    const std::lock_guard lock(mutex_);
    tokens_.push_back(std::move(token));
  }
  has_token_.notify_all();
}

template <typename With>
void RequestState::end(With&& with) noexcept {
  const std::lock_guard lock(mutex_);
  with();
  ended_ = true;
  has_token_.notify_all();
  has_ended_.notify_all();
}

void RequestState::finish(FinishReason reason) noexcept {
  const auto seconds = [](Clock::duration time) { return std::chrono::duration<double>(time).count(); };
  const Clock::time_point now = Clock::now();
  end([&] {
    completion_.finish = reason;
    completion_.cached_tokens = cached_tokens_;
    completion_.num_preemptions = std::max<int64_t>(0, num_admissions_ - 1);
    const bool any = !completion_.ids.empty();
    completion_.prompt_s = seconds((any ? first_token_ : now) - submitted_);
    completion_.decode_s = any ? seconds(now - first_token_) : 0;
  });
}

void RequestState::fail(std::exception_ptr error) noexcept {
  end([&] { error_ = std::move(error); });
}

std::optional<GeneratedToken> RequestState::next() {
  std::unique_lock lock(mutex_);
  has_token_.wait(lock, [&] { return ended_ || !tokens_.empty(); });
  if (!tokens_.empty()) {
    GeneratedToken token = std::move(tokens_.front());
    tokens_.pop_front();
    return token;
  }
  if (error_) std::rethrow_exception(error_);
  return std::nullopt;
}

Completion RequestState::wait() {
  std::unique_lock lock(mutex_);
  has_ended_.wait(lock, [&] { return ended_; });
  if (error_) std::rethrow_exception(error_);
  return completion_;
}

std::optional<GeneratedToken> Generation::next() { return state_->next(); }
Completion Generation::wait() { return state_->wait(); }
void Generation::cancel() { state_->cancel(); }

}  // namespace fulgur
