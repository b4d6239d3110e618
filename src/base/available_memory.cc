#include "base/available_memory.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>
#include <string_view>

#include "base/control_groups.h"

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

/// Of the line of a file that begins with `key`, where it holds a number.
std::optional<uint64_t> find_field(const std::filesystem::path& file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(key)) return number_of(std::string_view(line).substr(key.size()));
  }
  return std::nullopt;
}
uint64_t read_field(const std::filesystem::path& file, std::string_view key) {
  return find_field(file, key).value_or(0);
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

/// What a group leaves; nothing where it has no limit.
std::optional<uint64_t> left_by(const ControlGroup& group) {
  const Spelling& spelling = group.version == 2 ? kVersion2 : kVersion1;
  const auto limit = read_number(group.folder / spelling.limit);
  const auto usage = read_number(group.folder / spelling.usage);
  if (!limit || !usage) return std::nullopt;
  const std::filesystem::path stat = group.folder / "memory.stat";
  const uint64_t files = read_field(stat, spelling.inactive_files) + read_field(stat, spelling.active_files);
  const uint64_t taken = *usage - std::min(*usage, files);
  return *limit - std::min(*limit, taken);
}

constexpr uint64_t kKibibyte = 1024;

/// A limit that this process was started with (ulimit -v and -d), and what it has taken of it.
struct ProcessLimit {
  const char* limit;  // in /proc/self/limits, in bytes
  const char* taken;  // in /proc/self/status, in KiB
};
constexpr ProcessLimit kProcessLimits[] = {{"Max address space", "VmSize:"}, {"Max data size", "VmData:"}};

}  // namespace

std::optional<uint64_t> available_memory_bytes(const std::filesystem::path& proc,
                                               const std::filesystem::path& cgroups) {
  std::optional<uint64_t> available;
  const auto allow = [&](uint64_t bytes) { available = std::min(available.value_or(bytes), bytes); };
  if (const uint64_t left = read_field(proc / "meminfo", "MemAvailable:"); left > 0) allow(left * kKibibyte);
  for_each_control_group(proc, cgroups, "memory", [&](const ControlGroup& group) {
    if (const auto left = left_by(group)) allow(*left);
  });
  for (const ProcessLimit& of : kProcessLimits) {
    const std::optional<uint64_t> limit = find_field(proc / "self/limits", of.limit);
    if (!limit) continue;
    allow(*limit - std::min(*limit, read_field(proc / "self/status", of.taken) * kKibibyte));
  }
  return available;
}

}  // namespace fulgur
