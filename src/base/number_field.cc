#include "base/number_field.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>

namespace fulgur {

std::optional<uint64_t> number_of(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  uint64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<uint64_t> find_number(const std::filesystem::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return number_of(std::string_view(line).substr(key.size()));
  }
  return std::nullopt;
}

}  // namespace fulgur
