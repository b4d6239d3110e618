#pragma once

#include "base/thread_team.h"
#include "ops/arena.h"

namespace fulgur {

struct Backend;
class Profile;

/// What an op runs on. One per engine; not shared between threads. Everything but the team and the back end
/// may be used by one op at a time.
struct Context {
  const Backend* backend = nullptr;
  ThreadTeam* team = nullptr;  // CPU: the threads that ops run on
  Arena* arena = nullptr;      // scratch of ops and the activations of a step, back-end memory
  Profile* profile = nullptr;  // null: don't measure
};

}  // namespace fulgur
