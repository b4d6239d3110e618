#include "base/available_cpus.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

/// A /proc and a /sys/fs/cgroup of the test's own.
struct System {
  TemporaryFolder folder;
  void write(const std::string& file, const std::string& text) const {
    std::filesystem::create_directories((folder / file).parent_path());
    write_bytes(folder / file, text);
  }
  [[nodiscard]] int cpus() const { return available_cpus(folder / "proc", folder / "sys"); }
};

/// The CPUs of this thread's affinity.
int allowed() {
  cpu_set_t set;
  EXPECT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  return CPU_COUNT(&set);
}

TEST(AvailableCpus, AreThoseThatTheProcessMayRunOn) {
  const System system;
  EXPECT_EQ(system.cpus(), allowed());
  std::thread([&] {  // affinity is a thread's own
    cpu_set_t all;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &all)) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
      break;
    }
    EXPECT_EQ(system.cpus(), 1);
  })
      .join();
}

TEST(AvailableCpus, AreNoMoreThanAQuotaOfVersion2OrOneAboveItPaysFor) {
  const System system;
  system.write("proc/self/cgroup", "0::/jobs/mine\n");
  system.write("sys/jobs/mine/cpu.max", "max 100000\n");
  EXPECT_EQ(system.cpus(), allowed());
  system.write("sys/jobs/cpu.max", "100000 100000\n");
  EXPECT_EQ(system.cpus(), 1);
  system.write("sys/jobs/cpu.max", "20000 100000\n");
  EXPECT_EQ(system.cpus(), 1) << "part of a CPU";
  system.write("sys/jobs/cpu.max", "100001 100000\n");
  EXPECT_EQ(system.cpus(), std::min(2, allowed())) << "a CPU and a part of one";
  system.write("sys/jobs/cpu.max", "900000000 100000\n");
  EXPECT_EQ(system.cpus(), allowed()) << "more than there are";
}

TEST(AvailableCpus, SeeTheQuotaAtTheRootOfANamespace) {  // a container's own group, whose path is hidden
  const System system;
  system.write("proc/self/cgroup", "0::/\n");
  system.write("sys/cpu.max", "50000 100000\n");
  EXPECT_EQ(system.cpus(), 1);
}

TEST(AvailableCpus, AreNoMoreThanAQuotaOfVersion1PaysFor) {
  const System system;
  system.write("proc/self/cgroup", "4:memory:/other\n1:cpu,cpuacct:/mine\n0::/\n");
  system.write("sys/cpu/mine/cpu.cfs_quota_us", "-1\n");
  system.write("sys/cpu/mine/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(system.cpus(), allowed());
  system.write("sys/cpu/mine/cpu.cfs_quota_us", "80000\n");
  EXPECT_EQ(system.cpus(), 1);
}

TEST(AvailableCpus, TakesNonsenseForNoLimit) {
  const System system;
  system.write("proc/self/cgroup", "nonsense\n0::/\n");
  for (const char* text : {"", "0 0", "100000", "-5 100000", "max", "many few"}) {
    system.write("sys/cpu.max", text);
    EXPECT_EQ(system.cpus(), allowed()) << text;
  }
}

}  // namespace
}  // namespace fulgur
