#pragma once

#include <cstdint>
#include <vector>

namespace fulgur {

using RequestId = int64_t;

/// Consecutive tokens of one request that a step runs: a chunk of its prompt, or the token that was drawn
/// last and the drafts after it.
struct PlannedChunk {
  RequestId request = 0;
  int64_t first = 0;            // position of tokens[0]; all before it is in the caches
  std::vector<int32_t> tokens;  // known tokens, then drafts to verify
  int num_drafts = 0;
  bool draws = false;          // the last known token is among them: the step draws the next one
  std::vector<int32_t> pages;  // position s lies in pages[s / 64]; enough for all of `tokens`
};

/// One step as the scheduler wants it: a flat batch, and what changed for it to fit. This is the one place
/// where requests become rows: from here on hidden states are [num_tokens, hidden], whatever requests they
/// are of.
struct BatchPlan {
  struct Admission {
    RequestId request = 0;
    int64_t cached_tokens = 0;  // of its prefix that needn't be computed
  };
  std::vector<PlannedChunk> chunks;  // each of another request, in order of arrival
  std::vector<Admission> admitted;
  std::vector<RequestId> preempted;  // lost their pages; they wait again

  [[nodiscard]] int64_t num_tokens() const {
    int64_t total = 0;
    for (const PlannedChunk& chunk : chunks) total += static_cast<int64_t>(chunk.tokens.size());
    return total;
  }
};

}  // namespace fulgur
