#pragma once

#include <cstddef>

namespace fulgur {

/// What kernels and those who call them find room in: Backend::stack_bytes and more.
inline constexpr size_t kLeastStackBytes = 256 << 10;

/// Throws `device` where this thread's stack, or one that is started, may not become as large.
void check_stack_limit();

/// Has the system give the calling thread so much of its stack now: what a process takes doesn't depend on
/// which of its threads find work.
void settle_stack(size_t bytes);

}  // namespace fulgur
