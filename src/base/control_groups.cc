#include "base/control_groups.h"

#include <fmt/format.h>

#include <fstream>
#include <string>

namespace fulgur {

void for_each_control_group(const std::filesystem::path& proc, const std::filesystem::path& cgroups,
                            std::string_view controller,
                            const std::function<void(const ControlGroup&)>& visit) {
  std::ifstream in(proc / "self/cgroup");
  for (std::string line; std::getline(in, line);) {  // "0::/path", or "7:cpu,cpuacct:/path"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = fmt::format(",{},", line.substr(first + 1, second - first - 1));
    const bool second_version = controllers == ",,";
    if (!second_version && controllers.find(fmt::format(",{},", controller)) == std::string::npos) continue;
    // Distributions link cpu to cpu,cpuacct where they are mounted together.
    const std::filesystem::path root = second_version ? cgroups : cgroups / controller;
    std::filesystem::path path = line.substr(second + 1);
    for (path = path.relative_path();; path = path.parent_path()) {
      visit({.folder = root / path, .version = second_version ? 2 : 1});
      if (path.empty()) break;
    }
  }
}

}  // namespace fulgur
