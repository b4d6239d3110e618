#pragma once

#include <cstddef>

namespace fulgur {
struct Context;
}

namespace fulgur::test {

/// Queues a kernel that lets its successor start at once, takes its time and only then copies `bytes` from
/// `from` to `to`, both device memory: a predecessor that is late.
void queue_late_copy(Context& context, std::byte* to, const std::byte* from, size_t bytes);

}  // namespace fulgur::test
