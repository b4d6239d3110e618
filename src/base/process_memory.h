#pragma once

#include <cstdint>

namespace fulgur {

/// What this program holds in memory, mapped files that it has read included; 0 where nobody says. What it
/// has freed is given back to the system first.
uint64_t settled_rss_bytes();

/// The most that it has held.
uint64_t peak_rss_bytes();

}  // namespace fulgur
