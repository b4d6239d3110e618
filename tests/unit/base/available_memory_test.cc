#include "base/available_memory.h"

#include <gtest/gtest.h>

#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

/// A /proc and a /sys/fs/cgroup of the test's own.
struct System {
  TemporaryFolder folder;
  System() { std::filesystem::create_directories(folder / "proc/self"); }
  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((folder / file).parent_path());
    write_bytes(folder / file, text);
  }
  [[nodiscard]] std::optional<uint64_t> available() const {
    return available_memory_bytes(folder / "proc", folder / "sys");
  }
  [[nodiscard]] std::optional<uint64_t> address_space() const {
    return available_address_space_bytes(folder / "proc");
  }
};

TEST(AvailableMemory, IsWhatTheSystemHasLeft) {
  const System system;
  EXPECT_EQ(system.available(), std::nullopt);
  system.write("proc/meminfo", "MemTotal:       2000 kB\nMemAvailable:   1000 kB\n");
  EXPECT_EQ(system.available(), 1024000U);
}

TEST(AvailableMemory, IsNoMoreThanAControlGroupOrOneAboveItAllows) {
  const System system;
  system.write("proc/meminfo", "MemAvailable:   1000 kB\n");
  system.write("proc/self/cgroup", "0::/jobs/mine\n");
  system.write("sys/jobs/mine/memory.max", "max\n");
  system.write("sys/jobs/mine/memory.current", "100\n");
  EXPECT_EQ(system.available(), 1024000U);
  system.write("sys/jobs/memory.max", "5000\n");
  system.write("sys/jobs/memory.current", "3000\n");
  system.write("sys/jobs/memory.stat", "anon 2000\ninactive_file 600\nactive_file 400\n");
  EXPECT_EQ(system.available(), 3000U) << "files in the page cache can be given back";
  system.write("sys/jobs/mine/memory.max", "1100\n");
  EXPECT_EQ(system.available(), 1000U);
}

TEST(AvailableMemory, ReadsControlGroupsOfVersion1) {
  const System system;
  system.write("proc/meminfo", "MemAvailable:   1000 kB\n");
  system.write("proc/self/cgroup", "9:cpu:/\n7:memory:/box\n0::/\n");
  system.write("sys/memory/memory.limit_in_bytes", "9223372036854771712\n");
  system.write("sys/memory/memory.usage_in_bytes", "123\n");
  system.write("sys/memory/box/memory.limit_in_bytes", "5000\n");
  system.write("sys/memory/box/memory.usage_in_bytes", "6000\n");
  EXPECT_EQ(system.available(), 0U);
}

TEST(AvailableMemory, IsNoMoreThanTheProcessMayTake) {
  const System system;
  system.write("proc/meminfo", "MemAvailable:   1000 kB\n");
  system.write("proc/self/status", "VmPeak:  900 kB\nVmSize:  300 kB\nVmData:  100 kB\n");
  system.write("proc/self/limits",
               "Limit                     Soft Limit           Hard Limit           Units     \n"
               "Max data size             unlimited            unlimited            bytes     \n"
               "Max address space         819200               unlimited            bytes     \n");
  EXPECT_EQ(system.available(), 500U * 1024);
  EXPECT_EQ(system.address_space(), 500U * 1024);
}

TEST(AvailableMemory, TellsAddressSpaceOnlyWhereItIsLimited) {
  const System system;
  system.write("proc/meminfo", "MemAvailable:   1000 kB\n");
  EXPECT_EQ(system.available(), 1000U * 1024);
  EXPECT_EQ(system.address_space(), std::nullopt);
}

}  // namespace
}  // namespace fulgur
