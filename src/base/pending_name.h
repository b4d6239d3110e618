#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

/// A temporary file, or a folder of files, that any signal which ends the program takes away, for as long as
/// this lives; all but SIGKILL. Signals that the program ignores or handles stay as they are.
class PendingName {
 public:
  /// `<path>.<process>-<number>.partial`, the end of `path` cut off where that is too long for a name. Throws
  /// io_error, in the name of `path`, where there can be none.
  explicit PendingName(const std::filesystem::path& path);
  ~PendingName();
  PendingName(const PendingName&) = delete;
  PendingName& operator=(const PendingName&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return name_; }
  /// Gives what has this name the name `path`, so that a power cut doesn't take it back. Throws io_error.
  void rename_to(const std::filesystem::path& path);
  [[nodiscard]] bool renamed() const { return renamed_; }

 private:
  std::filesystem::path name_;
  int slot_ = -1;  // of the names that the signal handler removes
  bool renamed_ = false;
};

/// The names, as those of a PendingName for `path`, that lie beside it and are of other processes: what is
/// being made there, or was when a process was killed. Empty where that can't be looked at.
std::vector<std::string> others_pending(const std::filesystem::path& path);

/// Takes away what all names of the process stand for: for who ends it at once. A signal handler may call it.
void remove_pending_names() noexcept;

/// Makes the names in a folder survive a power cut, where the file system can.
void sync_folder(const std::filesystem::path& folder);

/// Throws the io_error of a path that can't be written, for the system's reason `error`.
[[noreturn]] void refuse_to_write(const std::filesystem::path& path, std::string_view what, int error);

}  // namespace fulgur
