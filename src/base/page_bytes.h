#pragma once

#include <cstddef>

namespace fulgur {

/// The least that a page of memory has; where one is larger, what goes by this looks at it more than once.
inline constexpr size_t kLeastPageBytes = 4096;

}  // namespace fulgur
