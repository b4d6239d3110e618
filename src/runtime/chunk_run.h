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

/// What to do about a model whose numbers are no numbers.
constexpr const char* kDamagedModel =
    "fulgur inspect --verify names the tensors with NaN and infinities; where it finds none, a weight may be "
    "finite and far too large: compare the files with their published checksums, or fetch them again";

/// What is wrong with a model that runs into a fault (not kNone).
Problem problem_of(ChunkFault fault);

/// What a step made of a planned chunk.
struct ChunkRun {
  std::vector<int32_t> drawn;  // where it draws: the drafts that were right, and the token after them
  ChunkFault fault = ChunkFault::kNone;
  std::vector<int32_t> drafts;  // guesses at what follows what was drawn
};

}  // namespace fulgur
