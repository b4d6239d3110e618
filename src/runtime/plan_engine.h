#pragma once

#include <optional>
#include <string>

#include "fulgur/engine.h"
#include "model/load.h"
#include "runtime/memory_need.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur {

/// An engine before its weights are loaded and its caches taken.
struct EnginePlan {
  PlannedModel planned;
  std::optional<Tokenizer> tokenizer;
  RunnerOptions runner;
  SchedulerOptions scheduler;
  MemoryNeed need;
};

/// Of a checkpoint folder. Throws Error with all that is wrong with it, or with the options.
EnginePlan plan_engine(const std::string& folder, const EngineOptions& options);

}  // namespace fulgur
