#pragma once

#include <cerrno>
#include <string_view>

namespace fulgur {

// What to do about errors that come from several places: their `todo`.

constexpr bool is_limit_of_open_files(int error) { return error == EMFILE || error == ENFILE; }
constexpr std::string_view kRaiseOpenFiles = "raise the limit of open files (ulimit -n)";

/// Where a thread can't be started.
constexpr std::string_view kFewerThreads =
    "use fewer (--threads, EngineOptions::threads), or raise the limits of threads and memory";

/// Where a file can't be opened or read.
constexpr std::string_view remedy_of_reading(int error) {
  return is_limit_of_open_files(error) ? kRaiseOpenFiles : "check the path and its permissions";
}

}  // namespace fulgur
