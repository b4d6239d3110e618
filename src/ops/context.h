#pragma once

#include <cstdint>

#include "base/thread_team.h"
#include "ops/arena.h"

namespace fulgur {

struct Backend;
class Profile;
namespace cuda {
class Stream;
}

/// What the scores of an IndexerSelect and the search in them may take where nobody says.
constexpr int64_t kDefaultIndexScratchBytes = int64_t{64} << 20;

/// What an op runs on. One per engine; not shared between threads. Everything but the team and the back end
/// may be used by one op at a time. On a GPU an op is queued and runs later, in the stream's order.
struct Context {
  const Backend* backend = nullptr;
  ThreadTeam* team = nullptr;      // CPU: the threads that ops run on
  cuda::Stream* stream = nullptr;  // CUDA: what ops are queued on
  Arena* arena = nullptr;          // scratch of ops and the activations of a step, back-end memory
  Profile* profile = nullptr;      // null: don't measure
  int64_t index_scratch_bytes = kDefaultIndexScratchBytes;  // at least Backend::least_index_scratch
};

}  // namespace fulgur
