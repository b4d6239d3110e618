#pragma once

#include <cerrno>
#include <string_view>

namespace fulgur {

// What to do about an errno: the `todo` of an io_error.

constexpr bool is_limit_of_open_files(int error) { return error == EMFILE || error == ENFILE; }
constexpr std::string_view kRaiseOpenFiles = "raise the limit of open files (ulimit -n)";

/// Where a file can't be opened or read.
constexpr std::string_view remedy_of_reading(int error) {
  return is_limit_of_open_files(error) ? kRaiseOpenFiles : "check the path and its permissions";
}

}  // namespace fulgur
