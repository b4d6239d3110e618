#include "base/available_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {
namespace {

/// The number that a text begins with after spaces; "max", and no file, have none.
std::optional<uint64_t> number_of(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  uint64_t value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<uint64_t> read_number(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return number_of(line);
}

/// Of the line of a file that begins with `key`, or 0.
uint64_t read_field(const std::filesystem::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return number_of(std::string_view(line).substr(key.size())).value_or(0);
  }
  return 0;
}

/// How a version of control groups spells it.
struct Spelling {
  const char* limit;
  const char* usage;
  const char* inactive_files;  // of memory.stat
  const char* active_files;
};
constexpr Spelling kVersion2{"memory.max", "memory.current", "inactive_file ", "active_file "};
constexpr Spelling kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ",
                             "total_active_file "};

/// What a group at `path` below `root`, and each above it, leaves.
std::optional<uint64_t> least_left(const std::filesystem::path& root, std::filesystem::path path,
                                   const Spelling& spelling) {
  std::optional<uint64_t> least;
  for (path = path.relative_path();; path = path.parent_path()) {
    const std::filesystem::path group = root / path;
    const auto limit = read_number(group / spelling.limit);
    const auto usage = read_number(group / spelling.usage);
    if (limit && usage) {
      const std::filesystem::path stat = group / "memory.stat";
      const uint64_t files =
          read_field(stat, spelling.inactive_files) + read_field(stat, spelling.active_files);
      const uint64_t taken = *usage - std::min(*usage, files);
      const uint64_t left = *limit - std::min(*limit, taken);
      least = std::min(least.value_or(left), left);
    }
    if (path.empty()) return least;
  }
}

}  // namespace

std::optional<uint64_t> available_memory_bytes(const std::filesystem::path& proc,
                                               const std::filesystem::path& cgroups) {
  constexpr uint64_t kKibibyte = 1024;
  std::optional<uint64_t> available;
  if (const uint64_t left = read_field(proc / "meminfo", "MemAvailable:"); left > 0)
    available = left * kKibibyte;
  std::ifstream in(proc / "self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "0::/path", or "7:memory:/path"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const std::filesystem::path path = line.substr(second + 1);
    std::optional<uint64_t> left;
    if (controllers == ",,") left = least_left(cgroups, path, kVersion2);
    if (controllers.find(",memory,") != std::string::npos)
      left = least_left(cgroups / "memory", path, kVersion1);
    if (left) available = std::min(available.value_or(*left), *left);
  }
  return available;
}

}  // namespace fulgur
