#pragma once

#include <string_view>

namespace fulgur {

// The program's log: lines on stderr, from any thread. A line that can't be written there is lost without
// harm.

/// Something the user should know of, though it stops nothing.
void log_notice(std::string_view line);
/// What was done and how long it took; only where details are wanted (--verbose).
void log_detail(std::string_view line);
void set_log_details(bool wanted);

}  // namespace fulgur
