#pragma once

#include <cstddef>

namespace fulgur {

/// What kernels and those who call them find room in: Backend::stack_bytes and more.
inline constexpr size_t kLeastStackBytes = 256 << 10;

/// The address space that the stack of a started thread takes, used or not.
size_t default_stack_bytes();

/// Throws `device` where this thread's stack, or one that is started, may not become as large.
void check_stack_limit();

/// Throws std::bad_alloc where the address space (ulimit -v) has no room for this thread's stack to grow so
/// far: the system would end the process then.
void check_stack_room(size_t bytes);

/// Has the system give the calling thread so much of its stack now: what a process takes doesn't depend on
/// which of its threads find work.
void settle_stack(size_t bytes);

}  // namespace fulgur
