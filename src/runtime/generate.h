#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "fulgur/engine.h"
#include "ops/sample.h"
#include "runtime/session.h"

namespace fulgur {

struct GenerateRequest {
  std::span<const int32_t> prompt;  // at least one id
  int64_t max_tokens = 0;
  SamplingParams sampling;
  std::span<const int64_t> stop_ids;  // end tokens; they are part of the ids that come out
};

struct GenerateResult {
  std::vector<int32_t> ids;
  FinishReason finish = FinishReason::kLength;
  double prompt_s = 0;  // until the first token is drawn
  double decode_s = 0;  // the tokens after it
};

/// Called with each new token that isn't an end token; false stops (finish = kStop).
using OnToken = std::function<bool(int32_t token)>;

/// Appends the prompt to an open sequence and continues it. The last drawn token is not appended.
GenerateResult generate(Session& session, int sequence, const GenerateRequest& request,
                        const OnToken& on_token);

}  // namespace fulgur
