#include "cli/streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "base/error.h"
#include "cli/command.h"

namespace fulgur::cli {
namespace {

/// Whether whoever started the program asked for errors instead of SIGPIPE.
bool sigpipe_was_ignored = false;

[[noreturn]] void refuse_output(int error) {
  if (error == EPIPE && !sigpipe_was_ignored) throw OutputClosed{};
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .message = "Standard output can't be written, so results are missing.",
                      .found = std::generic_category().message(error),
                      .todo = error == ENOSPC ? "make room on the disk" : ""});
}

}  // namespace

void prepare_streams() {
  // A closed standard descriptor would be the number of the next file opened: weights read as messages, or
  // results written into the log. /dev/null takes its place, the wrong way round, so that using it fails.
  constexpr std::array kModes = {O_WRONLY, O_RDONLY, O_RDONLY};
  for (int descriptor = 0; descriptor < static_cast<int>(kModes.size()); ++descriptor) {
    if (fcntl(descriptor, F_GETFD) >= 0) continue;
    if (open("/dev/null", kModes[static_cast<size_t>(descriptor)]) != descriptor) std::_Exit(kExitFailed);
  }
  sigpipe_was_ignored = std::signal(SIGPIPE, SIG_IGN) == SIG_IGN;
  std::signal(SIGXFSZ, SIG_IGN);
}

void end_by_sigpipe() {
  std::signal(SIGPIPE, SIG_DFL);
  std::raise(SIGPIPE);
  std::_Exit(kExitFailed);  // where the signal is blocked
}

void write_out(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) refuse_output(errno);
}

void flush_output() {
  if (std::fflush(stdout) != 0) refuse_output(errno);
}

void write_log(std::string_view text) noexcept { std::fwrite(text.data(), 1, text.size(), stderr); }

}  // namespace fulgur::cli
