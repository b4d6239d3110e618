#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>

#include "base/output_file.h"
#include "base/pending_name.h"

namespace fulgur {

/// A file that appears under its name whole and safely on disk by commit(), or not at all: it is written
/// beside it under a temporary name, which is gone after an error and after a signal that ends the program
/// (base/pending_name.h).
class PendingFile {
 public:
  /// Throws io_error where no file can be made: no such folder, no permission, `path` is no regular file.
  explicit PendingFile(std::filesystem::path path);
  ~PendingFile();
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  /// Throws io_error.
  void append(std::span<const std::byte> bytes) { file_->append(bytes); }
  /// Anywhere, whatever has been appended. Throws io_error.
  void write_at(uint64_t offset, std::span<const std::byte> bytes) { file_->write_at(offset, bytes); }
  /// Throws io_error; the file is then not there.
  void commit();

 private:
  std::filesystem::path path_;
  std::optional<PendingName> pending_;
  std::optional<OutputFile> file_;
};

/// Throws what a PendingFile of that name would, before the work that is to fill it is done.
void check_writable(const std::filesystem::path& path);

}  // namespace fulgur
