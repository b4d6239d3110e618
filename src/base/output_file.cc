#include "base/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "base/page_bytes.h"
#include "base/pending_name.h"

namespace fulgur {
namespace {

/// Reads a byte as any code does. The system itself only says EFAULT for a page that a mapped file has lost;
/// reading it raises the signal that flags the file and puts zeros there.
void touch(const std::byte& byte) { static_cast<void>(*static_cast<const volatile std::byte*>(&byte)); }

/// Calls `write_some(bytes)`, which gives what write(2) does, until all are written.
template <typename WriteSome>
void write_all(std::span<const std::byte> bytes, const std::filesystem::path& shown, WriteSome write_some) {
  bool touched = false;
  while (!bytes.empty()) {
    const ssize_t written = write_some(bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EFAULT && !touched) {
      // The system may have stopped anywhere in these pages, so all that are written next are read.
      for (size_t at = 0; at < bytes.size(); at += kLeastPageBytes) touch(bytes[at]);
      touch(bytes.back());
      touched = true;
      continue;
    }
    if (written < 0) refuse_to_write(shown, "writing failed", errno);
    touched = false;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

}  // namespace

OutputFile::OutputFile(const std::filesystem::path& path, std::filesystem::path shown)
    : shown_(std::move(shown)),
      descriptor_(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) refuse_to_write(shown_, "no file can be made there", errno);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

void OutputFile::append(std::span<const std::byte> bytes) {
  write_all(bytes, shown_,
            [&](std::span<const std::byte> left) { return write(descriptor_, left.data(), left.size()); });
}

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  const std::byte* begin = bytes.data();
  write_all(bytes, shown_, [&](std::span<const std::byte> left) {
    return pwrite(descriptor_, left.data(), left.size(), static_cast<off_t>(offset) + (left.data() - begin));
  });
}

void OutputFile::finish() {
  if (fsync(descriptor_) != 0) refuse_to_write(shown_, "it can't be brought to the disk", errno);
  if (close(std::exchange(descriptor_, -1)) != 0) refuse_to_write(shown_, "closing failed", errno);
}

}  // namespace fulgur
