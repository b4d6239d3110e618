#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace fulgur {

/// What is read whole has an end: an endless or mistaken file must not take the machine's memory.
constexpr size_t kMostTextBytes = size_t{256} << 20;

/// The whole file; `-` is standard input. Throws io_error: not there, a folder, unreadable, more than
/// `most_bytes`.
std::string read_text_file(const std::filesystem::path& path, size_t most_bytes = kMostTextBytes);

/// Takes the first line off `rest`, which is not empty: returns it without its end.
std::string_view take_line(std::string_view& rest);

/// The next line of standard input, without its end; nothing where the input has ended, or a signal came
/// instead. Throws io_error as above.
std::optional<std::string> read_input_line();

}  // namespace fulgur
