#pragma once

#include <filesystem>
#include <functional>
#include <string_view>

namespace fulgur {

/// Where limits of a controller ("cpu", "memory") on this process may stand.
struct ControlGroup {
  std::filesystem::path folder;
  int version = 2;
};

/// Calls `visit` with the process's groups of that controller, and each above them up to the root, of both
/// versions; a folder need not exist. `proc` and `cgroups` are /proc and /sys/fs/cgroup.
void for_each_control_group(const std::filesystem::path& proc, const std::filesystem::path& cgroups,
                            std::string_view controller,
                            const std::function<void(const ControlGroup&)>& visit);

}  // namespace fulgur
