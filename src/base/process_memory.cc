#include "base/process_memory.h"

#include <sys/resource.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <optional>
#include <string>

namespace fulgur {
namespace {

std::optional<uint64_t> status_bytes(const char* field) {
  std::ifstream status("/proc/self/status");
  const std::string format = std::string(field) + ": %" SCNu64 " kB";
  for (std::string line; std::getline(status, line);) {
    uint64_t kibibytes = 0;
    if (std::sscanf(line.c_str(), format.c_str(), &kibibytes) == 1) return kibibytes * 1024;
  }
  return std::nullopt;
}

}  // namespace

uint64_t rss_bytes() { return status_bytes("VmRSS").value_or(0); }

// getrusage begins with what the parent held when it was forked, so it is asked only where there is no /proc.
uint64_t peak_rss_bytes() {
  if (const std::optional<uint64_t> peak = status_bytes("VmHWM")) return *peak;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace fulgur
