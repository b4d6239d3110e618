#pragma once

#include <cstddef>

namespace fulgur {

/// How deep kernels go on a thread's stack, measured: the deepest are products in f32 of an expert's tiles.
/// It doesn't depend on a model's sizes.
inline constexpr size_t kKernelStackBytes = 92 << 10;
/// With room for what calls them.
inline constexpr size_t kLeastStackBytes = 256 << 10;

/// Throws `device` where this thread's stack, or one that is started, may not become as large.
void check_stack_limit();

/// Has the system give the calling thread that much of its stack now: what a process takes doesn't depend on
/// which of its threads find work.
void settle_stack();

}  // namespace fulgur
