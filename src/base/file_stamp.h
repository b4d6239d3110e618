#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace fulgur {

/// What of a file tells that its contents may have changed: taken when it is opened, compared afterwards.
class FileStamp {
 public:
  /// Of the regular file that is open, for reading only. None while somebody has it open for writing, or
  /// writes to it without a pause. Waits until a write() that is under way is through and the file is older
  /// than its system's clock ticks (some milliseconds; 2 s where stamps are whole seconds): from then on any
  /// write changes the stamp, but for one through a map of tmpfs, which stamps none of those. Throws
  /// std::system_error where the system tells nothing of the file.
  static std::optional<FileStamp> take(int descriptor);

  [[nodiscard]] uint64_t size_bytes() const { return static_cast<uint64_t>(status_.st_size); }

  /// What was seen of the file that `path` was opened as, if its contents may have changed since.
  struct Change {
    std::string expected;
    std::string found;         // "it had 10 bytes and now has 5"
    bool size = false;         // it is the size that changed
    bool status_only = false;  // neither size nor time of modification
  };
  /// A change of the size or the time of modification; or one of the status that nothing explains (mode,
  /// owner, number of names, and file under `path` are the same): what a write leaves after which somebody
  /// set the time of modification back, and so does much that is harmless (a second name made and removed,
  /// an attribute, a mode set to what it was).
  [[nodiscard]] std::optional<Change> change_of(int descriptor, const std::filesystem::path& path) const;

 private:
  explicit FileStamp(const struct stat& status) : status_(status) {}
  struct stat status_;
};

}  // namespace fulgur
