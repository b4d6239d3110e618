#pragma once

#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace fulgur {

/// What is read whole has an end: an endless or mistaken file must not take the machine's memory.
constexpr size_t kMostTextBytes = size_t{256} << 20;

/// A file that is open for reading, and its name as messages have it.
struct TextFile {
  std::string name;
  std::FILE* file = nullptr;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> owned;  // null: standard input
};

/// The whole file; `-` is standard input. Throws io_error: not there, a folder, unreadable, more than
/// `most_bytes`.
std::string read_text_file(const std::filesystem::path& path, size_t most_bytes = kMostTextBytes);

/// A text file's lines, one at a time; `-` is standard input. Each has an end, too.
class TextLines {
 public:
  /// Throws io_error: not there, unreadable.
  explicit TextLines(const std::filesystem::path& path);
  /// Without its end; nothing behind the last. Throws io_error, also for a line of more than kMostTextBytes.
  std::optional<std::string> next();

 private:
  TextFile file_;
};

/// Takes the first line off `rest`, which is not empty: returns it without its end.
std::string_view take_line(std::string_view& rest);

/// The next line of standard input, as TextLines has it, but no more than `most_bytes` of it are kept;
/// nothing where a signal came instead.
std::optional<std::string> read_input_line(size_t most_bytes);

}  // namespace fulgur
