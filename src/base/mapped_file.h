#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/file_stamp.h"

namespace fulgur {

/// A whole file, mapped read-only for as long as this lives. Where the file shrank, it reads as zeros from
/// there on and is flagged, instead of killing the process (a SIGBUS handler that touches mapped ranges
/// only): look at `damaged()`, or call `throw_if_damaged()`, after reading.
class MappedFile {
 public:
  /// Throws io_error: not there, not a regular file (links are followed), unreadable, being written (what the
  /// system tells of that: FileStamp).
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// Has the system begin to read a part of it, and doesn't wait.
  void read_ahead(uint64_t offset, uint64_t bytes) const;
  /// Reads a part of it now, so that no one who uses it waits for its pages.
  void populate(uint64_t offset, uint64_t bytes) const;
  /// A part of it needn't be held any longer: its pages are no more the process's own. Whoever reads them
  /// again gets what is in the file then.
  void release(uint64_t offset, uint64_t bytes) const;
  /// The last component of the path, for messages.
  [[nodiscard]] std::string file_name() const { return path_.filename().string(); }

  /// A page of it could not be read. Costs one load: cheap enough for every step.
  [[nodiscard]] bool damaged() const;
  /// io_error if a part of the file could not be read since it was mapped, or its contents may have changed
  /// (FileStamp::change_of): a cut inside the last page reads as zeros without a signal, and what is written
  /// in place is read as it is. Where the status alone changed, which is harmless as a rule, it tells the log
  /// once. Costs a call of the system. Not seen are writes after which somebody sets the time back and
  /// changes mode, owner or names, those through a map of tmpfs, and what a network's file system has not
  /// told this machine yet. A file that another takes the name of stays whole.
  void throw_if_damaged() const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int descriptor_ = -1;
  std::optional<FileStamp> stamp_;
  mutable std::atomic<bool> told_{false};  // of a change of the status
  int slot_ = -1;                          // in the handler's table of ranges; -1 for an empty file
};

}  // namespace fulgur
