#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

namespace fulgur {

/// The number that a text begins with after spaces; "max", say, has none.
std::optional<uint64_t> number_of(std::string_view text);

/// Of the first line of a file that begins with `key`, the number behind it: fields of /proc and of control
/// groups. Nothing where there is no file, line or number.
std::optional<uint64_t> find_number(const std::filesystem::path& file, std::string_view key);

}  // namespace fulgur
