#include "base/pending_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace fulgur {
namespace {

// What the signal handler reads: names of files to remove. It may run at any instruction of any thread.
struct PendingName {
  std::atomic<bool> taken{false};
  std::atomic<bool> written{false};  // `text` may be read
  std::array<char, PATH_MAX> text{};
};
static_assert(std::atomic<bool>::is_always_lock_free);

constexpr int kMostPendingFiles = 64;
std::array<PendingName, kMostPendingFiles> names;

void on_ending_signal(int signal) {
  for (const PendingName& name : names) {
    if (name.written.load(std::memory_order_acquire)) unlink(name.text.data());
  }
  struct sigaction defaults = {};
  defaults.sa_handler = SIG_DFL;
  sigaction(signal, &defaults, nullptr);
  raise(signal);  // blocked until this handler returns
}

void install_handlers_once() {
  static const bool installed = [] {
    for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM}) {
      struct sigaction action = {};
      sigaction(signal, nullptr, &action);
      if ((action.sa_flags & SA_SIGINFO) != 0 || action.sa_handler != SIG_DFL) continue;
      action.sa_handler = on_ending_signal;
      sigaction(signal, &action, nullptr);
    }
    return true;
  }();
  static_cast<void>(installed);
}

[[noreturn]] void fail(const std::filesystem::path& path, std::string_view what, int error) {
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .file = path.filename().string(),
                      .message = fmt::format("'{}' can't be written: {}: {}.", path.string(), what,
                                             std::generic_category().message(error))});
}

/// A slot that holds `name`; -1 if it is too long for any file or all are taken.
int take_slot(std::string_view name) {
  if (name.size() >= PATH_MAX) return -1;
  for (int slot = 0; slot < kMostPendingFiles; ++slot) {
    PendingName& candidate = names[static_cast<size_t>(slot)];
    if (candidate.taken.exchange(true, std::memory_order_acq_rel)) continue;
    candidate.text[name.copy(candidate.text.data(), name.size())] = '\0';
    candidate.written.store(true, std::memory_order_release);
    return slot;
  }
  return -1;
}

void give_back(int slot) {
  if (slot < 0) return;
  names[static_cast<size_t>(slot)].written.store(false, std::memory_order_release);
  names[static_cast<size_t>(slot)].taken.store(false, std::memory_order_release);
}

/// Makes a new name survive a power cut, where the file system can.
void sync_folder_of(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

}  // namespace

PendingFile::PendingFile(std::filesystem::path path) : path_(std::move(path)) {
  struct stat status = {};
  if (path_.filename().empty() || (stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))) {
    throw Error(ErrorKind::kIoError,
                fmt::format("'{}' can't be written: it is not the name of a regular file.", path_.string()));
  }
  install_handlers_once();
  static std::atomic<unsigned> next{0};
  pending_ = path_;
  pending_ += fmt::format(".{}-{}.partial", getpid(), next++);
  slot_ = take_slot(pending_.native());
  if (slot_ < 0)
    fail(path_, "no temporary file can be made",
         pending_.native().size() >= PATH_MAX ? ENAMETOOLONG : EMFILE);
  descriptor_ = open(pending_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    const int error = errno;
    give_back(slot_);
    fail(path_, "no file can be made in its folder", error);
  }
}

PendingFile::~PendingFile() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!committed_) unlink(pending_.c_str());
  give_back(slot_);
}

void PendingFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(path_, "writing failed", errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void PendingFile::commit() {
  if (fsync(descriptor_) != 0) fail(path_, "it can't be brought to the disk", errno);
  if (close(std::exchange(descriptor_, -1)) != 0) fail(path_, "closing failed", errno);
  if (rename(pending_.c_str(), path_.c_str()) != 0) fail(path_, "renaming failed", errno);
  committed_ = true;
  sync_folder_of(path_);
}

void check_writable(const std::filesystem::path& path) { const PendingFile probe(path); }

}  // namespace fulgur
