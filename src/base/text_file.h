#pragma once

#include <filesystem>
#include <string>

namespace fulgur {

/// The whole file; `-` is standard input. Throws io_error: not there, a folder, unreadable.
std::string read_text_file(const std::filesystem::path& path);

}  // namespace fulgur
