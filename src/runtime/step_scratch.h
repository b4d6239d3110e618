#pragma once

#include <cstdint>

#include "model/config.h"
#include "model/weights.h"
#include "runtime/step_runner.h"

namespace fulgur {

/// Most tokens of a step where nobody says.
inline constexpr int64_t kStepTokens = 512;

/// A run as far as its size decides what memory it takes.
struct RunSize {
  int64_t cache_tokens = 0;  // in the caches, rounded up to pages
  int64_t context = 0;       // of the longest sequence; 0: cache_tokens
  int64_t prompt = 0;        // tokens of the longest prompt; 0: as long as the context
  int64_t prompts = 0;       // tokens of the prompts that are there at once; 0: all sequences' longest
  int64_t step_tokens = kStepTokens;  // most in a step, of those that the caches hold
  int64_t sequences = 1;              // most at once
  int64_t requests = 0;               // on their way at once, with those that wait; 0: sequences
  int64_t selection_width = 0;        // of injected selections; 0: none are
  bool hands_out_logits = false;      // of all tokens of prompts
  bool shows_scores = false;          // to an observer, as what follows
  bool shows_router = false;
  bool shows_mtp_logits = false;
  uint64_t results_bytes = 0;  // that whoever runs it keeps of what is handed out and shown

  [[nodiscard]] int64_t longest() const;
  [[nodiscard]] int64_t longest_prompt() const;
  [[nodiscard]] int64_t num_pages() const;
  /// Each token of a step takes a place in the caches.
  [[nodiscard]] int64_t most_step_tokens() const;
  /// Of all requests on their way.
  [[nodiscard]] int64_t prompt_ids() const;
  /// Rows of logits that callbacks see at once: of a token that was drawn, or of part of a prompt.
  [[nodiscard]] int64_t host_logits_rows() const;
  /// Most tokens of prompts in a step.
  [[nodiscard]] int64_t prompt_step_tokens() const;
};

/// What the arena holds at most in such a run's steps: found by running the layers' ops with an arena that
/// only counts, so that nothing is allocated or computed. Of `weights` only forms and shapes are looked at.
uint64_t step_scratch_bytes(const Config& config, const ModelWeights& weights, const RunnerOptions& options,
                            const RunSize& size);

}  // namespace fulgur
