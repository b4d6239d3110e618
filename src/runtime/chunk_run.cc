#include "runtime/chunk_run.h"

namespace fulgur {

Problem problem_of(ChunkFault fault) {
  const bool score = fault == ChunkFault::kNanScore;
  return {.kind = ErrorKind::kBadValue,
          .message = score ? "A score of the model became NaN while it ran."
                           : "The model's logits are NaN or infinite, so no token can be drawn.",
          .expected = score ? "finite numbers" : "finite logits",
          .found = score ? "NaN" : "NaN or infinity",
          .todo = kDamagedModel};
}

}  // namespace fulgur
