#include "base/file_stamp.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <ctime>
#include <system_error>
#include <thread>

namespace fulgur {
namespace {

using std::chrono::nanoseconds;

/// The coarsest stamps that file systems have (FAT; ext4 with small inodes has 1 s).
constexpr nanoseconds kWholeSeconds = std::chrono::seconds(2);
/// Where the clock is late with its tick.
constexpr nanoseconds kLeastWait = std::chrono::microseconds(100);
/// Each waits out one write: who writes more is writing.
constexpr int kMostTries = 50;

struct stat status_of(int descriptor) {
  struct stat status = {};
  if (fstat(descriptor, &status) != 0) throw std::system_error(errno, std::generic_category());
  return status;
}

nanoseconds since_epoch(const timespec& time) {
  return std::chrono::seconds(time.tv_sec) + nanoseconds(time.tv_nsec);
}

bool same(const timespec& a, const timespec& b) { return since_epoch(a) == since_epoch(b); }

nanoseconds time_of(clockid_t clock) {
  timespec time = {};
  clock_gettime(clock, &time);
  return since_epoch(time);
}

/// How long a write may still leave the same time of modification: until the clock that stamps files has
/// gone past it.
nanoseconds until_next_stamp(const timespec& modified) {
  timespec tick = {};
  clock_getres(CLOCK_REALTIME_COARSE, &tick);
  const nanoseconds clock = time_of(CLOCK_REALTIME_COARSE);
  const nanoseconds age = clock - since_epoch(modified);
  if (modified.tv_nsec == 0 && age < kWholeSeconds && age > -kWholeSeconds) return kWholeSeconds - age;
  // A stamp further ahead of the clock was set by somebody, or by another machine's clock.
  if (age > nanoseconds(0) || age < -since_epoch(tick)) return nanoseconds(0);
  return std::max(kLeastWait, clock + since_epoch(tick) - time_of(CLOCK_REALTIME));
}

void wait_for_next_stamp(const timespec& modified) {
  for (nanoseconds wait = until_next_stamp(modified); wait > nanoseconds(0);
       wait = until_next_stamp(modified)) {
    std::this_thread::sleep_for(wait);
  }
}

/// Whether anybody has the file open for writing, a shared map included: the system grants no lease then.
/// It grants one to the file's owner only, and not on every file system: otherwise this says no.
bool open_for_writing(int descriptor) {
  // Who opens it for writing while the lease is held (some microseconds; he waits) makes the system send a
  // signal: SIGIO, which ends a process, unless another is asked for. This one is ignored by default.
  if (fcntl(descriptor, F_SETSIG, SIGURG) != 0) return false;
  if (fcntl(descriptor, F_SETLEASE, F_RDLCK) != 0) return errno == EAGAIN;
  fcntl(descriptor, F_SETLEASE, F_UNLCK);
  return false;
}

/// Waits until no write() to it is under way. ext4, btrfs, tmpfs: a seek takes the lock that a write holds;
/// XFS: a read does.
void wait_for_write(int descriptor) {
  char byte = 0;
  lseek(descriptor, 0, SEEK_DATA);
  static_cast<void>(!pread(descriptor, &byte, 1, 0));
}

std::string utc(const timespec& time) {
  tm fields = {};
  gmtime_r(&time.tv_sec, &fields);
  std::array<char, sizeof("-9223372036854775808-01-01 00:00:00")> text{};
  strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &fields);
  return fmt::format("{}.{:09} UTC", text.data(), time.tv_nsec);
}

}  // namespace

// A write stamps the file when it begins. One that begins after the wait gets another stamp than `before`. So
// if the stamp is the same at the end, those that left it are through, and later ones will show.
std::optional<FileStamp> FileStamp::take(int descriptor) {
  for (int i = 0; i < kMostTries; ++i) {
    const struct stat before = status_of(descriptor);
    wait_for_next_stamp(before.st_mtim);
    if (open_for_writing(descriptor)) return std::nullopt;
    wait_for_write(descriptor);
    const struct stat after = status_of(descriptor);
    if (same(before.st_mtim, after.st_mtim) && before.st_size == after.st_size) return FileStamp(after);
  }
  return std::nullopt;
}

std::optional<FileStamp::Change> FileStamp::change_of(int descriptor,
                                                      const std::filesystem::path& path) const {
  const struct stat now = status_of(descriptor);
  if (now.st_size != status_.st_size) {
    return Change{fmt::format("{} bytes, as when it was mapped", status_.st_size),
                  fmt::format("it had {} bytes and now has {}", status_.st_size, now.st_size), true};
  }
  if (!same(now.st_mtim, status_.st_mtim)) {
    return Change{"a file that nothing writes to", fmt::format("its time of modification went from {} to {}",
                                                               utc(status_.st_mtim), utc(now.st_mtim))};
  }
  if (same(now.st_ctim, status_.st_ctim) || now.st_mode != status_.st_mode || now.st_uid != status_.st_uid ||
      now.st_gid != status_.st_gid || now.st_nlink != status_.st_nlink) {
    return std::nullopt;
  }
  struct stat named = {};
  if (stat(path.c_str(), &named) != 0 || named.st_ino != now.st_ino || named.st_dev != now.st_dev) {
    return std::nullopt;  // it was renamed
  }
  return Change{.expected = "a file that nothing writes to",
                .found = fmt::format("its status changed at {}, its size, mode, owner and time of "
                                     "modification did not: as after setting an attribute, or a write and "
                                     "setting the time back",
                                     utc(now.st_ctim)),
                .status_only = true};
}

}  // namespace fulgur
