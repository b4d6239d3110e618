#pragma once

#include <cstddef>

#include "base/thread_team.h"

namespace fulgur::cpu {

// The memory of the CPU back end (ops/backend.h), the same for every instruction set.
void* allocate(size_t bytes);
void release(void* data);
void settle(ThreadTeam& team, void* data, size_t bytes);
void copy(void* to, const void* from, size_t bytes);

}  // namespace fulgur::cpu
