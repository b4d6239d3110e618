#pragma once

#include <fmt/format.h>

#include <string_view>
#include <utility>

namespace fulgur::cli {

// What a command prints. Results go to stdout and must arrive; the log goes to stderr, and what can't be
// written there is lost without harm.

/// Before anything is opened or printed: no file of ours may become standard input, output or error, and a
/// closed pipe or a full file is an error of the write, not the end of the process.
void prepare_streams();

/// The reader of stdout has gone away and expects the program to end by SIGPIPE, as others do. Nothing of
/// interest to commands: main ends the process.
struct OutputClosed {};
/// Ends the process as SIGPIPE would have.
[[noreturn]] void end_by_sigpipe();

/// To stdout. Throws io_error where it can't be written, or OutputClosed.
void write_out(std::string_view text);
/// Everything printed so far is out. Throws like write_out.
void flush_output();
template <typename... Args>
void print_out(fmt::format_string<Args...> format, Args&&... args) {
  write_out(fmt::format(format, std::forward<Args>(args)...));
}

/// To stderr.
void write_log(std::string_view text) noexcept;
template <typename... Args>
void print_log(fmt::format_string<Args...> format, Args&&... args) {
  write_log(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace fulgur::cli
