#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"

namespace fulgur {

enum class ChunkFault {
  kNone,
  kNanScore,   // a score, router logit or attention sum was NaN
  kBadLogits,  // a token can't be drawn: NaN or infinity
};

/// What is wrong with a model that runs into a fault (not kNone).
Problem problem_of(ChunkFault fault);

/// What a step made of a planned chunk.
struct ChunkRun {
  std::vector<int32_t> drawn;  // where it draws: the drafts that were right, and the token after them
  ChunkFault fault = ChunkFault::kNone;
  std::vector<int32_t> drafts;  // guesses at what follows what was drawn
};

}  // namespace fulgur
