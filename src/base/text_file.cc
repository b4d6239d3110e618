#include "base/text_file.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <system_error>

#include "base/error.h"

namespace fulgur {

std::string read_text_file(const std::filesystem::path& path) {
  const bool standard_input = path == "-";
  const auto refuse = [&](int error) {
    throw Error(Problem{.kind = ErrorKind::kIoError,
                        .file = standard_input ? "standard input" : path.string(),
                        .message = "This file can't be read.",
                        .expected = "a readable file",
                        .found = std::generic_category().message(error),
                        .todo = "check the path and its permissions"});
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(
      standard_input ? nullptr : std::fopen(path.c_str(), "rb"),
      [](std::FILE* file) { return std::fclose(file); });
  std::FILE* file = standard_input ? stdin : opened.get();
  if (file == nullptr) refuse(errno);
  std::string text;
  std::array<char, 1 << 16> buffer;
  while (const size_t got = std::fread(buffer.data(), 1, buffer.size(), file))
    text.append(buffer.data(), got);
  if (std::ferror(file) != 0) refuse(errno);
  return text;
}

}  // namespace fulgur
