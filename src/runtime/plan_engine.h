#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <string>

#include "fulgur/engine.h"
#include "model/load.h"
#include "runtime/memory_need.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur {

/// What requests may ask for that takes memory beside their tokens'.
struct RequestRoom {
  bool prompt_logits = true;
  int max_logprobs = std::numeric_limits<int>::max();  // of a token
  size_t step_logprobs = 0;                            // of a step's tokens, taken at once; 0: as they come
};

/// An engine before its weights are loaded and its caches taken.
struct EnginePlan {
  PlannedModel planned;
  std::optional<Tokenizer> tokenizer;
  RunnerOptions runner;
  SchedulerOptions scheduler;
  RequestRoom room;
  MemoryNeed need;
};

/// Of a checkpoint folder. Throws Error with all that is wrong with it, or with the options.
EnginePlan plan_engine(const std::string& folder, const EngineOptions& options);

}  // namespace fulgur
