#include "base/pending_file.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "base/error.h"

namespace fulgur {

PendingFile::PendingFile(std::filesystem::path path) : path_(std::move(path)) {
  struct stat status = {};
  if (path_.filename().empty() || (stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode))) {
    throw Error(ErrorKind::kIoError,
                fmt::format("'{}' can't be written: it is not the name of a regular file.", path_.string()));
  }
  pending_.emplace(path_);
  file_.emplace(pending_->path(), path_);
}

PendingFile::~PendingFile() {
  if (!pending_->renamed()) unlink(pending_->path().c_str());
}

void PendingFile::commit() {
  file_->finish();
  pending_->rename_to(path_);
}

void check_writable(const std::filesystem::path& path) { const PendingFile probe(path); }

}  // namespace fulgur
