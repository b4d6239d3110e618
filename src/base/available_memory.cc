#include "base/available_memory.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <string_view>

#include "base/control_groups.h"
#include "base/number_field.h"

namespace fulgur {
namespace {

std::optional<uint64_t> read_number(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return number_of(line);
}

uint64_t read_field(const std::filesystem::path& file, std::string_view key) {
  return find_number(file, key).value_or(0);
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

/// At most so many.
void allow(uint64_t bytes, std::optional<uint64_t>& available) {
  available = std::min(available.value_or(bytes), bytes);
}

}  // namespace

std::optional<uint64_t> available_memory_bytes(const std::filesystem::path& proc,
                                               const std::filesystem::path& cgroups) {
  std::optional<uint64_t> available = available_address_space_bytes(proc);
  if (const uint64_t left = read_field(proc / "meminfo", "MemAvailable:"); left > 0)
    allow(left * kKibibyte, available);
  for_each_control_group(proc, cgroups, "memory", [&](const ControlGroup& group) {
    if (const auto left = left_by(group)) allow(*left, available);
  });
  return available;
}

std::optional<uint64_t> available_address_space_bytes(const std::filesystem::path& proc) {
  std::optional<uint64_t> available;
  for (const ProcessLimit& of : kProcessLimits) {
    const std::optional<uint64_t> limit = find_number(proc / "self/limits", of.limit);
    if (!limit) continue;
    allow(*limit - std::min(*limit, read_field(proc / "self/status", of.taken) * kKibibyte), available);
  }
  return available;
}

}  // namespace fulgur
