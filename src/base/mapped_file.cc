#include "base/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file_stamp.h"
#include "base/log.h"
#include "base/remedy.h"

namespace fulgur {
namespace {

// What the signal handler reads. Only lock-free atomics: it may run at any instruction of any thread.
struct Range {
  std::atomic<bool> taken{false};
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};  // 0: nothing mapped
  std::atomic<bool> damaged{false};
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

constexpr int kMostMappedFiles = 4096;  // two checkpoints of the most shards that are read
std::array<Range, kMostMappedFiles> ranges;
struct sigaction previous_action;
uintptr_t page_bytes = 0;

Range* range_of(uintptr_t address) {
  for (Range& range : ranges) {
    if (address < range.end.load(std::memory_order_acquire) &&
        address >= range.begin.load(std::memory_order_acquire)) {
      return &range;
    }
  }
  return nullptr;
}

/// Puts zero pages from `address` to the end of the range: a file is good or it isn't, and page by page a
/// large one would use up the process's mappings. The raw call: sanitizers wrap mmap in code that no handler
/// may run.
bool map_zero_pages(uintptr_t address, uintptr_t end) {
  const uintptr_t page = address & ~(page_bytes - 1);
  return syscall(SYS_mmap, page, end - page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
         static_cast<long>(page);
}

void pass_on(int signal, siginfo_t* info, void* machine_context) {
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) {
    previous_action.sa_sigaction(signal, info, machine_context);
  } else if (previous_action.sa_handler == SIG_IGN && info->si_code <= 0) {
    return;  // sent by a process, which may be ignored; a fault may not
  } else if (previous_action.sa_handler == SIG_IGN || previous_action.sa_handler == SIG_DFL) {
    struct sigaction defaults = {};
    defaults.sa_handler = SIG_DFL;
    sigaction(signal, &defaults, nullptr);
    raise(signal);  // blocked until this handler returns
  } else {
    previous_action.sa_handler(signal);
  }
}

void on_sigbus(int signal, siginfo_t* info, void* machine_context) {
  const int saved_errno = errno;
  const bool lost_page =
      info->si_code == BUS_ADRERR || info->si_code == BUS_OBJERR || info->si_code == BUS_MCEERR_AR;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  Range* range = lost_page ? range_of(address) : nullptr;
  if (range != nullptr && map_zero_pages(address, range->end.load(std::memory_order_acquire))) {
    range->damaged.store(true, std::memory_order_release);
  } else {
    pass_on(signal, info, machine_context);
  }
  errno = saved_errno;
}

void install_handler_once() {
  static const bool installed = [] {
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, nullptr, &previous_action);  // before ours can run
    return sigaction(SIGBUS, &action, nullptr) == 0;
  }();
  static_cast<void>(installed);
}

[[noreturn]] void fail(const std::filesystem::path& path, std::string message, std::string expected,
                       std::string found, std::string todo) {
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .file = path.filename().string(),
                      .message = std::move(message),
                      .expected = std::move(expected),
                      .found = std::move(found),
                      .todo = std::move(todo)});
}

std::string reason_of(int error) {
  if (error == ELOOP) return "its symbolic links lead round in a circle";
  return std::generic_category().message(error);
}

/// `what` the system would not do with the file, and why.
[[noreturn]] void fail_with(const std::filesystem::path& path, std::string_view what, int error) {
  fail(path, fmt::format("{} can't be {}: {}.", path.string(), what, reason_of(error)), "a readable file",
       reason_of(error), std::string(remedy_of_reading(error)));
}

[[noreturn]] void fail_as_written(const std::filesystem::path& path) {
  fail(path, fmt::format("{} is being written: it is open for writing.", path.string()),
       "a file that nothing writes to", "a process that has it open for writing",
       "load again once the copy or download is complete (fuser -v tells whose it is)");
}

/// Throws where somebody is writing to it.
FileStamp stamp_of(int descriptor, const std::filesystem::path& path) {
  std::optional<FileStamp> stamp;
  try {
    stamp = FileStamp::take(descriptor);
  } catch (const std::system_error& error) {
    fail_with(path, "read", error.code().value());
  }
  if (!stamp) fail_as_written(path);
  return *stamp;
}

int take_slot() {
  for (int slot = 0; slot < kMostMappedFiles; ++slot) {
    if (!ranges[slot].taken.exchange(true, std::memory_order_acq_rel)) {
      ranges[slot].damaged.store(false, std::memory_order_relaxed);
      return slot;
    }
  }
  return -1;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  install_handler_once();
  std::shared_ptr<MappedFile> file(new MappedFile());
  file->path_ = path;
  // O_NONBLOCK: a pipe of that name is refused below instead of waited for.
  file->descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->descriptor_ < 0 && errno == EWOULDBLOCK) fail_as_written(path);  // its writer holds a lease
  if (file->descriptor_ < 0) fail_with(path, "opened", errno);
  if (struct stat status = {}; fstat(file->descriptor_, &status) == 0 && !S_ISREG(status.st_mode)) {
    fail(path, fmt::format("{} is not a regular file.", path.string()), "a regular file, or a link to one",
         S_ISDIR(status.st_mode) ? "a folder" : "a pipe, socket or device", "put the file in its place");
  }
  file->stamp_.emplace(stamp_of(file->descriptor_, path));
  const size_t size = file->stamp_->size_bytes();
  if (size == 0) return file;

  file->slot_ = take_slot();
  if (file->slot_ < 0) {
    fail(path, fmt::format("More than {} files are mapped at once.", kMostMappedFiles),
         fmt::format("at most {} files", kMostMappedFiles), "one more",
         "use a release of fewer, larger shards");
  }
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file->descriptor_, 0);
  if (data == MAP_FAILED && errno == ENOMEM) {
    fail(path, fmt::format("{} can't be mapped: it takes more address space than there is.", path.string()),
         fmt::format("{} bytes of address space", size), reason_of(ENOMEM), "raise the limit (ulimit -v)");
  }
  if (data == MAP_FAILED) fail_with(path, "mapped", errno);
  file->data_ = static_cast<const std::byte*>(data);
  file->size_ = size;
  Range& range = ranges[static_cast<size_t>(file->slot_)];
  const auto begin = reinterpret_cast<uintptr_t>(data);
  range.begin.store(begin, std::memory_order_release);
  range.end.store(begin + (size + page_bytes - 1) / page_bytes * page_bytes, std::memory_order_release);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ranges[static_cast<size_t>(slot_)].end.store(0, std::memory_order_release);
    munmap(const_cast<std::byte*>(data_), size_);
  }
  if (slot_ >= 0) ranges[static_cast<size_t>(slot_)].taken.store(false, std::memory_order_release);
  if (descriptor_ >= 0) close(descriptor_);
}

void MappedFile::read_ahead(uint64_t offset, uint64_t bytes) const {
  posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

void MappedFile::populate(uint64_t offset, uint64_t bytes) const {
  const uint64_t first = offset & ~(page_bytes - 1);
  const uint64_t end = std::min<uint64_t>(size_, offset + bytes);
  if (first >= end) return;
  read_ahead(first, end - first);  // the system does so in small steps for faults; this asks for all at once
#ifdef MADV_POPULATE_READ
  auto* begin = const_cast<std::byte*>(data_ + first);
  if (madvise(begin, end - first, MADV_POPULATE_READ) == 0) return;
#endif
  // An older system, or a file that has shrunk: then the touch raises the signal that flags it.
  for (uint64_t at = first; at < end; at += page_bytes) {
    static_cast<void>(*static_cast<const volatile std::byte*>(data_ + at));
  }
}

void MappedFile::release(uint64_t offset, uint64_t bytes) const {
  const uint64_t first = offset & ~(page_bytes - 1);
  const uint64_t end = std::min<uint64_t>(size_, offset + bytes);
  if (first < end) madvise(const_cast<std::byte*>(data_ + first), end - first, MADV_DONTNEED);
}

bool MappedFile::damaged() const {
  return slot_ >= 0 && ranges[static_cast<size_t>(slot_)].damaged.load(std::memory_order_acquire);
}

void MappedFile::throw_if_damaged() const {
  std::optional<FileStamp::Change> change;
  try {
    change = stamp_->change_of(descriptor_, path_);
  } catch (const std::system_error& error) {
    change = {"a file that can be read", reason_of(error.code().value())};
  }
  if (damaged() && !(change && change->size)) {  // it was cut and has grown again
    change = {"a file that nothing writes to", "a part of it is not there any more"};
  }
  if (!change) return;
  if (change->status_only) {
    if (told_.exchange(true)) return;
    log_notice(fmt::format("{}: {}. If it was written to, results are wrong from then on.", path_.string(),
                           change->found));
    return;
  }
  fail(path_,
       fmt::format("{} changed while mapped: {}{}.", path_.string(), change->found,
                   change->size || damaged() ? "" : "; its contents may have changed"),
       change->expected, change->found, "load again once nothing writes to it");
}

}  // namespace fulgur
