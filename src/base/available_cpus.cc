#include "base/available_cpus.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "base/control_groups.h"

namespace fulgur {
namespace {

/// CPUs that the scheduler may place the process on.
int allowed_cpus() {
  constexpr size_t kMostCpus = 1 << 16;
  for (size_t cpus = CPU_SETSIZE; cpus <= kMostCpus; cpus *= 2) {  // too small a set is refused
    std::vector<cpu_set_t> set(cpus / CPU_SETSIZE);
    const size_t bytes = set.size() * sizeof(cpu_set_t);
    if (sched_getaffinity(0, bytes, set.data()) == 0) return CPU_COUNT_S(bytes, set.data());
  }
  return static_cast<int>(std::thread::hardware_concurrency());  // 0 where it isn't known
}

/// The first number of a file; 0 where there is none ("max", no such file).
double read_number(const std::filesystem::path& file) {
  std::ifstream in(file);
  double value = 0;
  return in >> value ? value : 0;
}

/// CPUs that a group's quota of microseconds a period pays for; 0 where it has none.
double quota_cpus(const ControlGroup& group) {
  double quota = 0;
  double period = 0;
  if (group.version == 2) {
    std::ifstream in(group.folder / "cpu.max");  // "150000 100000", or "max 100000"
    if (!(in >> quota >> period)) return 0;
  } else {
    quota = read_number(group.folder / "cpu.cfs_quota_us");  // -1: none
    period = read_number(group.folder / "cpu.cfs_period_us");
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

}  // namespace

int available_cpus(const std::filesystem::path& proc, const std::filesystem::path& cgroups) {
  int cpus = std::max(1, allowed_cpus());
  for_each_control_group(proc, cgroups, "cpu", [&](const ControlGroup& group) {
    const double quota = quota_cpus(group);
    if (quota > 0) cpus = static_cast<int>(std::min<double>(cpus, std::ceil(quota)));
  });
  return cpus;
}

}  // namespace fulgur
