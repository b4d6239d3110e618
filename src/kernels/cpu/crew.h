#pragma once

#include <cstdint>

#include "base/thread_team.h"
#include "ops/context.h"

namespace fulgur::cpu {

/// One member's view of those who work on an op: the whole team, or the caller alone. Results never depend on
/// `size`.
struct Crew {
  ThreadTeam* team;
  int member;
  int size;

  void barrier() const {
    if (size > 1) team->barrier();
  }
  /// This member's part of [0, total), cut at multiples of `grain`.
  [[nodiscard]] Share share(int64_t total, int64_t grain = 1) const {
    return share_of(total, member, size, grain);
  }
};

/// Below this much work, in bytes read and written, the caller alone is done before a second member has
/// begun.
constexpr int64_t kMinBytesPerRegion = 64 << 10;

/// body(Crew) on the whole team, or on the caller alone where the op's work, `bytes`, is small. All that an
/// op computes is in one, all that it allocates before (where nothing but that is wanted: Arena).
template <typename Body>
void run_region(Context& context, int64_t bytes, Body&& body) {
  if (context.arena->only_counts()) return;
  const int size = context.team->size();
  if (size == 1 || bytes < kMinBytesPerRegion) {
    body(Crew{context.team, 0, 1});
    return;
  }
  context.team->run([&](int member) { body(Crew{context.team, member, size}); });
}

}  // namespace fulgur::cpu
