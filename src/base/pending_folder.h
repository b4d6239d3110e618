#pragma once

#include <filesystem>
#include <string_view>

#include "base/output_file.h"
#include "base/pending_name.h"

namespace fulgur {

/// A folder of files that appears under its name whole and safely on disk by commit(), or not at all: it is
/// filled beside it under a temporary name, which is gone after an error and after a signal that ends the
/// program (base/pending_name.h).
class PendingFolder {
 public:
  /// `path` is not there yet, or an empty folder, and not the current one. Throws io_error for anything else,
  /// and where no folder can be made beside it.
  explicit PendingFolder(const std::filesystem::path& path);
  ~PendingFolder();
  PendingFolder(const PendingFolder&) = delete;
  PendingFolder& operator=(const PendingFolder&) = delete;

  /// The name that it will have, without links.
  [[nodiscard]] const std::filesystem::path& destination() const { return path_; }
  /// Where its files are until then.
  [[nodiscard]] const std::filesystem::path& path() const { return pending_.path(); }
  /// A new file in it, to be finished before commit().
  [[nodiscard]] OutputFile create(std::string_view name) const { return {path() / name, path_ / name}; }
  /// The same with all that is to be in it.
  void write(std::string_view name, std::string_view text) const;
  /// Throws io_error; the folder is then not there.
  void commit();

 private:
  std::filesystem::path path_;
  PendingName pending_;
};

}  // namespace fulgur
