#include "base/pending_name.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <system_error>
#include <vector>

#include "base/error.h"
#include "base/list_folder.h"
#include "base/remedy.h"

namespace fulgur {
namespace {

// What the signal handler reads: names to remove. It may run at any instruction of any thread.
struct Slot {
  std::atomic<bool> taken{false};
  std::atomic<bool> written{false};  // `text` may be read
  std::array<char, PATH_MAX> text{};
};
static_assert(std::atomic<bool>::is_always_lock_free);

constexpr int kMostNames = 64;
std::array<Slot, kMostNames> slots;

/// Removes the files of an open folder. Nothing but system calls: this runs in a signal handler.
void empty_folder(int folder) {
  constexpr size_t kBufferBytes = 4096;
  alignas(dirent64) std::array<char, kBufferBytes> buffer;
  for (;;) {
    const ssize_t filled = getdents64(folder, buffer.data(), buffer.size());
    if (filled <= 0) return;
    for (ssize_t at = 0; at < filled;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
      unlinkat(folder, entry->d_name, 0);  // "." and ".." are refused
      at += entry->d_reclen;
    }
  }
}

void remove_name(const char* name) {
  if (unlink(name) == 0 || errno == ENOENT) return;
  constexpr int kMostTries = 100;  // another thread may be making files in it
  for (int i = 0; i < kMostTries && rmdir(name) != 0 && errno != ENOENT; ++i) {
    const int folder = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return;
    empty_folder(folder);
    close(folder);
  }
}

void on_ending_signal(int signal) {
  remove_pending_names();
  struct sigaction defaults = {};
  defaults.sa_handler = SIG_DFL;
  sigaction(signal, &defaults, nullptr);
  raise(signal);  // blocked until this handler returns
}

/// Every signal that would end the program: sent from outside, by a limit, a timer or itself. SIGKILL can't
/// be handled. SIGBUS is left to base/mapped_file.cc.
std::vector<int> ending_signals() {
  std::vector<int> signals = {SIGHUP,    SIGINT,  SIGQUIT, SIGILL,  SIGTRAP, SIGABRT, SIGFPE,
                              SIGUSR1,   SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGSTKFLT,
                              SIGVTALRM, SIGPROF, SIGIO,   SIGPWR,  SIGSYS,  SIGXCPU, SIGXFSZ};
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) signals.push_back(signal);
  return signals;
}

void install_handlers_once() {
  static const bool installed = [] {
    for (const int signal : ending_signals()) {
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

/// A slot that holds `name`; -1 if it is too long for any file or all are taken.
int take_slot(std::string_view name) {
  if (name.size() >= PATH_MAX) return -1;
  for (int slot = 0; slot < kMostNames; ++slot) {
    Slot& candidate = slots[static_cast<size_t>(slot)];
    if (candidate.taken.exchange(true, std::memory_order_acq_rel)) continue;
    candidate.text[name.copy(candidate.text.data(), name.size())] = '\0';
    candidate.written.store(true, std::memory_order_release);
    return slot;
  }
  return -1;
}

constexpr std::string_view kPartial = ".partial";

/// So much of a path's last component that a temporary name that begins with it is no longer than names may
/// be: cut between characters, where it is UTF-8.
std::string beginning_of_name(const std::filesystem::path& path) {
  constexpr size_t kMostOfSuffix = 40;  // two numbers and what stands around them
  std::string name = path.filename().string();
  if (name.size() + kMostOfSuffix <= NAME_MAX) return name;
  size_t end = NAME_MAX - kMostOfSuffix;
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xc0U) == 0x80U) --end;
  return name.substr(0, end);
}

/// Whether a temporary name may go on so behind its beginning and a dot: "<process>-<number>.partial".
bool is_suffix(std::string_view text) {
  if (!text.ends_with(kPartial)) return false;
  text.remove_suffix(kPartial.size());
  const size_t dash = text.find('-');
  const auto is_number = [](std::string_view part) {
    return !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return dash != std::string_view::npos && is_number(text.substr(0, dash)) &&
         is_number(text.substr(dash + 1));
}

/// Whether `reason`, for which a rename failed, is what has got this name since it was looked at.
bool is_in_the_way(const std::filesystem::path& path, int reason) {
  struct stat status = {};
  return (reason == ENOTEMPTY || reason == EEXIST || reason == ENOTDIR || reason == EISDIR) &&
         lstat(path.c_str(), &status) == 0;
}

[[noreturn]] void refuse_taken(const std::filesystem::path& path) {
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .file = path.string(),
                      .message = "This can't be written: it has appeared meanwhile, made by someone else.",
                      .expected = "a name that nobody takes while this works",
                      .found = "something of that name, which is left as it is",
                      .todo = "look at what is there; move it away, or name another place"});
}

}  // namespace

std::vector<std::string> others_pending(const std::filesystem::path& path) try {
  const std::string beginning = beginning_of_name(path) + ".";
  std::vector<std::string> names;
  for (const std::filesystem::path& other : list_folder(path.has_parent_path() ? path.parent_path() : ".")) {
    std::string name = other.filename().string();
    if (!name.starts_with(beginning)) continue;
    const std::string_view rest = std::string_view(name).substr(beginning.size());
    if (is_suffix(rest) && !rest.starts_with(fmt::format("{}-", getpid()))) names.push_back(std::move(name));
  }
  return names;
} catch (const Error&) {
  return {};  // a folder may be written to by who can't list it
}

void remove_pending_names() noexcept {
  for (const Slot& slot : slots) {
    if (slot.written.load(std::memory_order_acquire)) remove_name(slot.text.data());
  }
}

PendingName::PendingName(const std::filesystem::path& path) : name_(path) {
  install_handlers_once();
  static std::atomic<unsigned> next{0};
  if (path.filename().native().size() > NAME_MAX) refuse_to_write(path, "no name is so long", ENAMETOOLONG);
  name_.replace_filename(beginning_of_name(path) + fmt::format(".{}-{}{}", getpid(), next++, kPartial));
  slot_ = take_slot(name_.native());
  if (slot_ < 0) {
    refuse_to_write(path, "no temporary file can be made",
                    name_.native().size() >= PATH_MAX ? ENAMETOOLONG : EMFILE);
  }
}

void PendingName::rename_to(const std::filesystem::path& path) {
  if (rename(name_.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    if (is_in_the_way(path, reason)) refuse_taken(path);
    refuse_to_write(path, "renaming failed", reason);
  }
  renamed_ = true;
  sync_folder(path.parent_path());
}

PendingName::~PendingName() {
  Slot& slot = slots[static_cast<size_t>(slot_)];
  slot.written.store(false, std::memory_order_release);
  slot.taken.store(false, std::memory_order_release);
}

void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

namespace {

std::string remedy_of(int error) {
  if (error == ENOSPC || error == EDQUOT) return "make room on the disk, or name a folder on another";
  if (error == EFBIG) {
    return "raise the limit of a file's size (ulimit -f), or name a folder on a file system without one; "
           "of a conversion: a smaller --shard-size";
  }
  if (is_limit_of_open_files(error)) return std::string(kRaiseOpenFiles);
  if (error == ENOMEM) return "raise the limit of memory (ulimit -v), or end what else takes it";
  return "name a folder that is there and may be written to";
}

}  // namespace

void refuse_to_write(const std::filesystem::path& path, std::string_view what, int error) {
  const std::string reason = std::generic_category().message(error);
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .file = path.string(),
                      .message = fmt::format("This can't be written: {}: {}.", what, reason),
                      .expected = "a place that can be written to",
                      .found = reason,
                      .todo = remedy_of(error)});
}

}  // namespace fulgur
