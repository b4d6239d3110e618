#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fulgur/error.h"

namespace fulgur {

class StepRunner;
class Tokenizer;
struct LoadedModel;
struct RunnerOptions;
struct SchedulerOptions;

/// How the next token is drawn. A draw depends on logits, seed and position alone.
struct Sampling {
  float temperature = 0;  // 0: greedy; top_k, top_p and min_p are then ignored
  int top_k = 0;          // draw from the k likeliest; 0: all
  float top_p = 1;        // then from the smallest set of the likeliest that holds this mass
  float min_p = 0;        // then from those at least min_p times as likely as the likeliest
  uint64_t seed = 0;
  float repetition_penalty =
      1;                        // divides the positive logits of tokens of prompt and text, multiplies others
  float frequency_penalty = 0;  // subtracted for each time that a token is in the text
  float presence_penalty = 0;   // subtracted once from the tokens of the text
  std::vector<std::pair<int32_t, float>> logit_bias;  // added to a token's logit, before the penalties
};

struct TokenLogprob {
  int32_t id = 0;
  double logprob = 0;  // ln p under the model's own logits, before penalties and temperature
};

/// What a request brought forth at once.
struct GeneratedToken {
  int32_t id = -1;
  std::string text;  // that can be shown now: whole characters, none of what may become a stop string
  std::optional<double> logprob;        // of `id`, if the request asks for it
  std::vector<TokenLogprob> likeliest;  // in descending order
};

struct Request {
  std::vector<int32_t> prompt;  // at least one id
  int64_t max_tokens = 256;     // most new tokens; 0: only the prompt is run
  Sampling sampling;
  std::vector<int32_t> stop_tokens;  // end the text, besides the model's end tokens
  bool ignore_end_tokens = false;    // the model's
  std::vector<std::string> stop;     // texts (UTF-8) before which it ends; need a tokenizer
  /// Of the likeliest tokens, besides the drawn one's, at most EngineOptions::max_logprobs; -1: none at all.
  int num_logprobs = -1;
  /// Called with each token on the engine's thread: be quick, don't wait() there. What it throws ends the
  /// request. Null: take them with Generation::next().
  std::function<void(const GeneratedToken&)> on_token;
  /// Called, in order, with logits of all the prompt's positions, on the engine's thread: `rows` rows of the
  /// vocabulary's size, the first of position `first`. The prompt's prefix is then not taken from the cache.
  /// For engines with EngineOptions::prompt_logits.
  std::function<void(int64_t first, int64_t rows, const float* logits)> on_prompt_logits;
};

enum class FinishReason {
  kStop,    // an end token, a stop token or a stop string
  kLength,  // max_tokens
  kCancelled,
};
/// "stop", "length", "cancelled".
std::string_view name(FinishReason reason);

struct Completion {
  std::vector<int32_t> ids;  // new tokens, an end token among them
  std::string text;          // of them, without end token and stop string; empty without a tokenizer
  FinishReason finish = FinishReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;    // of the prompt, taken from the prefix cache
  int64_t drafted = 0;          // tokens guessed by the MTP layer and looked at
  int64_t accepted = 0;         // of those, the right ones
  int64_t num_preemptions = 0;  // times that it was set back for want of cache pages
  double prompt_s = 0;          // from submit() to the first token
  double decode_s = 0;          // the tokens after it
};

class RequestState;

/// A request on its way. Copies are the same request. May be dropped: the request goes on.
class Generation {
 public:
  /// Waits for the next token; empty after the last. Throws what ended the request: an Error, std::bad_alloc,
  /// or what its on_token or on_prompt_logits threw.
  std::optional<GeneratedToken> next();
  /// Waits for the end. Throws what ended the request.
  Completion wait();
  /// Ends it soon, with kCancelled; from any thread, at any time. From its on_token: no token comes after.
  void cancel();

 private:
  friend class Engine;
  explicit Generation(std::shared_ptr<RequestState> state) : state_(std::move(state)) {}
  std::shared_ptr<RequestState> state_;
};

/// What caches hold their entries as. kByPrecision: bf16, or f32 in full precision.
enum class CacheForm { kByPrecision, kBf16, kFp8, kF32 };
struct CacheForms {
  CacheForm latents = CacheForm::kByPrecision;
  CacheForm index_keys = CacheForm::kByPrecision;
};

/// Tokens that are guessed ahead where nobody says.
inline constexpr int kDefaultDrafts = 1;

/// The most that EngineOptions may ask for, whatever the memory.
struct EngineLimits {
  static constexpr int kThreads = 1024;
  static constexpr int64_t kCacheTokens = int64_t{1} << 36;
  static constexpr int64_t kStepTokens = int64_t{1} << 20;
  static constexpr int kRunning = 1 << 16;
  static constexpr int kDrafts = 16;  // each is seldom right if the one before it wasn't sure
};

struct EngineOptions {
  int threads = 0;              // 0: one for each CPU that the process may use
  bool full_precision = false;  // weights dequantized, activations and caches in f32
  CacheForms cache_forms;       // smaller ones cost accuracy (docs/performance.md)
  int64_t cache_tokens = 0;     // that all requests together may hold; 0: 32768, or one sequence of the model
  int64_t index_scratch_bytes = int64_t{64} << 20;  // that index scores may take, whatever the context
  int64_t step_tokens = 512;  // most tokens computed at once, of those that the caches hold
  int max_running = 256;      // most requests computed at once
  /// Tokens that the model's MTP layer guesses ahead, 0: none. Texts are the same. Null: kDefaultDrafts where
  /// the checkpoint has that layer without problems, else none.
  std::optional<int> num_drafts;
  bool prefix_cache = true;  // keep the caches of prompts and texts for those that begin alike
  /// Requests may have an on_prompt_logits: room for the logits of a whole step is kept.
  bool prompt_logits = false;
  int max_logprobs = 20;  // most num_logprobs of a request: room for a step's is kept
};

/// A model that serves many requests at once. One thread of its own runs the model; all functions may be
/// called from any thread. What a request gets doesn't depend on the others (docs/design.md, section 1).
class Engine {
 public:
  /// Loads a checkpoint folder. Throws Error with all that is wrong with it, and where it doesn't fit. Under
  /// a limit of address space (ulimit -v) have malloc share one arena first, mallopt(M_ARENA_MAX, 1): else it
  /// asks for 64 MB of it for each thread.
  explicit Engine(const std::string& folder, const EngineOptions& options = {});
  /// Over a model and tokenizer (or null) that outlive it: for those who see Fulgur's inside.
  Engine(const LoadedModel& model, const Tokenizer* tokenizer, const RunnerOptions& runner,
         const SchedulerOptions& scheduler);
  /// Cancels what is on its way, and waits for the engine's thread: from a callback, which runs there, it
  /// ends the process, with a sentence on stderr.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Throws bad_request for what can't be run: logits of a prompt without EngineOptions::prompt_logits, more
  /// logprobs than EngineOptions::max_logprobs, ids outside the vocabulary, more tokens than the model's
  /// positions or the caches hold, stop strings without a tokenizer or of half a character, sampling values
  /// out of range.
  /// What requests bring is moved, not copied, and in no prediction of memory beyond what the caches hold,
  /// nor is what waits to be taken: prompts' ids (4 bytes a token, 8 for each new one), biases (8 bytes),
  /// counts for penalties (8 bytes a different token), tokens not yet taken with next() (100 bytes, their
  /// text, and 16 bytes for each of `likeliest`), and about 3 KB for each request that waits.
  Generation submit(Request request);
  /// Requests that begin together, as far as a step has room, in this order. Where one can't be run, none is.
  std::vector<Generation> submit_all(std::vector<Request> requests);

  /// A prompt's text to ids (control tokens in it are parsed, BOS is put in front if the model has one), and
  /// ids to text. Throw bad_request without a tokenizer.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text) const;
  [[nodiscard]] std::string decode(const std::vector<int32_t>& ids) const;

  /// What runs the steps: for measurements and experiments, and only while no request is on its way.
  [[nodiscard]] StepRunner& runner();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fulgur
