#include "base/process_memory.h"

#include <malloc.h>
#include <sys/resource.h>

#include <optional>
#include <string_view>

#include "base/number_field.h"

namespace fulgur {
namespace {

/// Of a field in KiB.
std::optional<uint64_t> field_bytes(const char* file, std::string_view key) {
  std::optional<uint64_t> value = find_number(file, key);
  if (value) *value *= 1024;
  return value;
}

}  // namespace

// VmRSS is a sum of counters that each CPU keeps to itself for a while; the roll-up counts pages.
uint64_t settled_rss_bytes() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  if (const std::optional<uint64_t> counted = field_bytes("/proc/self/smaps_rollup", "Rss:")) return *counted;
  return field_bytes("/proc/self/status", "VmRSS:").value_or(0);
}

// getrusage begins with what the parent held when it was forked, so it is asked only where there is no /proc.
uint64_t peak_rss_bytes() {
  if (const std::optional<uint64_t> peak = field_bytes("/proc/self/status", "VmHWM:")) return *peak;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace fulgur
