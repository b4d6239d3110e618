#pragma once

#include <filesystem>

namespace fulgur {

/// CPUs that this process can keep busy, at least 1: those it may run on (sched_getaffinity), or fewer where
/// the quota of a control group of the process (version 1 or 2, or one above it) pays for less; part of a CPU
/// counts as one.
int available_cpus(const std::filesystem::path& proc = "/proc",
                   const std::filesystem::path& cgroups = "/sys/fs/cgroup");

}  // namespace fulgur
