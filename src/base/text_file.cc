#include "base/text_file.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
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

TextFile open_text(const std::filesystem::path& path) {
  const bool standard_input = path == "-";
  TextFile text{.name = standard_input ? kStandardInput : path.string(),
                .file = stdin,
                .owned = {nullptr, [](std::FILE* file) { return std::fclose(file); }}};
  if (standard_input) return text;
  text.owned.reset(std::fopen(path.c_str(), "rb"));
  text.file = text.owned.get();
  if (text.file == nullptr) refuse_unreadable(text.name, errno);
  return text;
}

/// As many as a file has that tells its size.
size_t expected_bytes(std::FILE* file) {
  struct stat status = {};
  return fstat(fileno(file), &status) == 0 && S_ISREG(status.st_mode) ? static_cast<size_t>(status.st_size)
                                                                      : 0;
}

/// Calls take(byte) for each of a line; whether there was one.
template <typename Take>
bool read_line(std::FILE* file, const Take& take) {
  int c = 0;
  bool any = false;
  // NOLINTNEXTLINE(concurrency-mt-unsafe): one thread reads a file
  while ((c = getc_unlocked(file)) != EOF) {
    any = true;
    if (c == '\n') break;
    take(static_cast<char>(c));
  }
  return any;
}

}  // namespace

std::string read_text_file(const std::filesystem::path& path, size_t most_bytes) {
  const TextFile opened = open_text(path);
  std::string text;
  text.reserve(std::min(expected_bytes(opened.file), most_bytes));  // growing would hold it twice
  std::vector<char> buffer(size_t{1} << 16);                        // not on the stack, which may be smaller
  size_t got = 0;
  do {  // a short read is the end: another one would ask a terminal for a second Ctrl-D
    got = std::fread(buffer.data(), 1, buffer.size(), opened.file);
    if (got > most_bytes - text.size()) refuse_too_long(opened.name, "This file", most_bytes);
    text.append(buffer.data(), got);
  } while (got == buffer.size());
  if (std::ferror(opened.file) != 0) refuse_unreadable(opened.name, errno);
  return text;
}

TextLines::TextLines(const std::filesystem::path& path) : file_(open_text(path)) {}

std::optional<std::string> TextLines::next() {
  std::string line;
  const bool any = read_line(file_.file, [&](char c) {
    if (line.size() == kMostTextBytes) refuse_too_long(file_.name, "A line", kMostTextBytes);
    line += c;
  });
  if (std::ferror(file_.file) != 0) refuse_unreadable(file_.name, errno);
  return any ? std::optional(std::move(line)) : std::nullopt;
}

std::string_view take_line(std::string_view& rest) {
  const std::string_view line = rest.substr(0, rest.find('\n'));
  rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  return line;
}

std::optional<std::string> read_input_line(size_t most_bytes) {
  std::string line;
  size_t read = 0;
  const bool any = read_line(stdin, [&](char c) {
    if (++read > kMostTextBytes) refuse_too_long(kStandardInput, "A line", kMostTextBytes);
    if (line.size() < most_bytes) line += c;
  });
  if (std::ferror(stdin) != 0) {
    if (errno == EINTR) return std::nullopt;
    refuse_unreadable(kStandardInput, errno);
  }
  return any ? std::optional(std::move(line)) : std::nullopt;
}

}  // namespace fulgur
