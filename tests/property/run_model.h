#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/session.h"

namespace fulgur::property {

/// What the engine makes of a prompt.
struct EngineRun {
  std::vector<float> logits;               // [T, V]
  std::vector<std::vector<float>> hidden;  // the residual stream after each layer [T, d]
  std::vector<std::vector<std::vector<int32_t>>>
      selected;  // per layer and token; none for layers without indexer
  std::vector<std::vector<std::vector<int32_t>>> experts;  // per layer and token; none for dense layers
};

/// Only the logits are recorded, unless all is asked for.
EngineRun run_engine(Session& session, std::span<const int32_t> tokens, bool record_all);

}  // namespace fulgur::property
