#include "base/pending_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <span>
#include <string>
#include <system_error>

#include "base/error.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& path, std::string_view reason, std::string found) {
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .file = path.string(),
                      .message = fmt::format("This can't be written: {}.", reason),
                      .expected = "a name that is not taken, or an empty folder",
                      .found = std::move(found),
                      .todo = "name another folder (one in it, say), or move this one away"});
}

/// Where a file system is mounted, whose name another folder can't take.
bool is_mount_point(const fs::path& folder) {
  struct statx status = {};
  return statx(AT_FDCWD, folder.c_str(), 0, STATX_TYPE, &status) == 0 &&
         (status.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

/// The name to be taken, without a final slash, and without links where it is there: renaming replaces an
/// empty folder, but no link to one.
fs::path checked(const fs::path& given) {
  if (given.empty()) refuse(given, "a folder needs a name", "no name");
  std::error_code error;
  const fs::file_status status = fs::status(given, error);
  if (status.type() == fs::file_type::not_found) {
    fs::path path = given.has_filename() ? given : given.parent_path();
    if (fs::is_symlink(fs::symlink_status(path, error)))
      refuse(given, "it is a link that leads nowhere", "a link");
    return path;
  }
  if (!fs::status_known(status)) refuse_to_write(given, "it can't be looked at", error.value());
  if (!fs::is_directory(status)) refuse(given, "it is there already, and no folder", "a file");
  const fs::directory_iterator first(given, error);
  if (error) refuse_to_write(given, "it can't be looked into", error.value());
  if (first != fs::directory_iterator()) {
    refuse(given, "it is there already, and not empty", first->path().filename().string() + " in it");
  }
  if (is_mount_point(given)) refuse(given, "a file system is mounted there", "a mount point");
  if (fs::equivalent(given, ".", error))  // which would be replaced: who stands in it would stand in nothing
    refuse(given, "it is the folder that this runs in", "the current folder");
  return fs::canonical(given, error);
}

}  // namespace

PendingFolder::PendingFolder(const fs::path& path) : path_(checked(path)), pending_(path_) {
  if (mkdir(pending_.path().c_str(), 0777) != 0)
    refuse_to_write(path_, "no folder can be made in its parent", errno);
}

PendingFolder::~PendingFolder() {
  std::error_code ignored;
  if (!pending_.renamed()) fs::remove_all(pending_.path(), ignored);
}

void PendingFolder::write(std::string_view name, std::string_view text) const {
  OutputFile file = create(name);
  file.append(std::as_bytes(std::span(text)));
  file.finish();
}

void PendingFolder::commit() {
  sync_folder(pending_.path());
  pending_.rename_to(path_);
}

}  // namespace fulgur
