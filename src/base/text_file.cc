#include "base/text_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/remedy.h"

namespace fulgur {
namespace {

constexpr const char* kStandardInput = "standard input";

[[noreturn]] void refuse_unreadable(const std::string& file, int error) {
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .file = file,
                      .message = "This file can't be read.",
                      .expected = "a readable file",
                      .found = std::generic_category().message(error),
                      .todo = std::string(remedy_of_reading(error))});
}

[[noreturn]] void refuse_too_long(const std::string& file, const std::string& what, size_t most_bytes) {
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .file = file,
                      .message = fmt::format("{} is longer than {} MiB.", what, most_bytes >> 20),
                      .expected = fmt::format("at most {} bytes", most_bytes),
                      .todo = "cut it into smaller ones"});
}

}  // namespace

std::string read_text_file(const std::filesystem::path& path, size_t most_bytes) {
  const bool standard_input = path == "-";
  const std::string name = standard_input ? kStandardInput : path.string();
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(
      standard_input ? nullptr : std::fopen(path.c_str(), "rb"),
      [](std::FILE* file) { return std::fclose(file); });
  std::FILE* file = standard_input ? stdin : opened.get();
  if (file == nullptr) refuse_unreadable(name, errno);
  std::string text;
  std::vector<char> buffer(size_t{1} << 16);  // not on the stack, which may be smaller
  size_t got = 0;
  do {  // a short read is the end: another one would ask a terminal for a second Ctrl-D
    got = std::fread(buffer.data(), 1, buffer.size(), file);
    if (got > most_bytes - text.size()) refuse_too_long(name, "This file", most_bytes);
    text.append(buffer.data(), got);
  } while (got == buffer.size());
  if (std::ferror(file) != 0) refuse_unreadable(name, errno);
  return text;
}

std::string_view take_line(std::string_view& rest) {
  const std::string_view line = rest.substr(0, rest.find('\n'));
  rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  return line;
}

std::optional<std::string> read_input_line() {
  std::string line;
  int c = 0;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): one thread reads standard input
  while ((c = getc_unlocked(stdin)) != EOF && c != '\n') {
    if (line.size() == kMostTextBytes) refuse_too_long(kStandardInput, "A line", kMostTextBytes);
    line += static_cast<char>(c);
  }
  if (c == EOF && std::ferror(stdin) != 0) {
    if (errno == EINTR) return std::nullopt;
    refuse_unreadable(kStandardInput, errno);
  }
  if (c == EOF && line.empty()) return std::nullopt;
  return line;
}

}  // namespace fulgur
