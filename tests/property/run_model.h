#pragma once

#include <cstdint>
#include <vector>

#include "fulgur/engine.h"

namespace fulgur::property {

/// A list for each token, ascending.
using Choices = std::vector<std::vector<int32_t>>;

/// What the engine makes of a prompt.
struct EngineRun {
  std::vector<float> logits;               // [T, V]
  std::vector<std::vector<float>> hidden;  // the residual stream after each layer [T, d]
  std::vector<Choices> selected;           // positions, per layer; none where it has no indexer of its own
  std::vector<Choices> experts;            // per layer; none where it is dense
};

/// The whole prompt, by an engine that runs it in one step.
EngineRun run_engine(Engine& engine, const std::vector<int32_t>& tokens);
/// The logits alone.
std::vector<float> run_logits(Engine& engine, const std::vector<int32_t>& tokens);

}  // namespace fulgur::property
