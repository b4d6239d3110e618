#pragma once

#include <cstdint>

namespace fulgur {

/// What this program holds in memory, mapped files that it has read included; 0 where nobody says.
uint64_t rss_bytes();

/// The most that it has held.
uint64_t peak_rss_bytes();

}  // namespace fulgur
