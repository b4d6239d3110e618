#include "checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr size_t kDataAlignment =
    64;  // of the first tensor, so that a mapped file starts like allocated memory

[[noreturn]] void fail(const std::filesystem::path& path, std::string_view what, int error) {
  throw Error(Problem{
      .kind = ErrorKind::kIoError,
      .file = path.filename().string(),
      .message = fmt::format("{} can't be written: {}: {}.", path.string(), what, std::strerror(error))});
}

/// A file that becomes visible under its name only by commit(); otherwise nothing is left of it.
class PendingFile {
 public:
  explicit PendingFile(std::filesystem::path path) : path_(std::move(path)) {
    struct stat status = {};
    if (stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
      throw Error(ErrorKind::kIoError,
                  fmt::format("{} can't be replaced: it is not a regular file.", path_.string()));
    }
    static std::atomic<unsigned> next{0};
    pending_ = path_;
    pending_ += fmt::format(".{}-{}.partial", getpid(), next++);
    descriptor_ = open(pending_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail(path_, "no file can be made in its folder", errno);
  }
  ~PendingFile() {
    if (descriptor_ >= 0) close(descriptor_);
    if (!committed_) unlink(pending_.c_str());
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;

  void append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = write(descriptor_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail(path_, "writing failed", errno);
      bytes = bytes.subspan(static_cast<size_t>(written));
    }
  }

  void commit() {
    if (fsync(descriptor_) != 0) fail(path_, "it can't be brought to the disk", errno);
    if (close(std::exchange(descriptor_, -1)) != 0) fail(path_, "closing failed", errno);
    if (rename(pending_.c_str(), path_.c_str()) != 0) fail(path_, "renaming failed", errno);
    committed_ = true;
    sync_folder();
  }

 private:
  /// Makes the new name survive a power cut, where the file system can.
  void sync_folder() const {
    const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
    const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    fsync(descriptor);
    close(descriptor);
  }

  std::filesystem::path path_;
  std::filesystem::path pending_;
  int descriptor_ = -1;
  bool committed_ = false;
};

void check(const std::vector<TensorToWrite>& sorted) {
  std::vector<std::string_view> names;
  for (const TensorToWrite& tensor : sorted) {
    size_t bytes = size_bytes(tensor.dtype);
    for (const int64_t dim : tensor.shape) bytes *= static_cast<size_t>(dim);
    if (bytes != tensor.bytes.size()) {
      throw std::logic_error(
          fmt::format("'{}': {} bytes for a shape that takes {}", tensor.name, tensor.bytes.size(), bytes));
    }
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) throw std::logic_error(fmt::format("'{}' is to be written twice", *twice));
}

std::string header_of(const std::vector<TensorToWrite>& sorted) {
  std::string header = "{";
  size_t begin = 0;
  for (const TensorToWrite& tensor : sorted) {
    const size_t end = begin + tensor.bytes.size();
    header += fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          header.size() > 1 ? "," : "", nlohmann::json(tensor.name).dump(),
                          name(tensor.dtype), fmt::join(tensor.shape, ","), begin, end);
    begin = end;
  }
  header += "}";
  const size_t unpadded = sizeof(uint64_t) + header.size();
  header.append((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment, ' ');
  return header;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorToWrite& a, const TensorToWrite& b) {
    const size_t a_width = size_bytes(a.dtype);
    const size_t b_width = size_bytes(b.dtype);
    return a_width != b_width ? a_width > b_width : a.name < b.name;
  });
  check(tensors);
  const std::string header = header_of(tensors);
  const uint64_t length = header.size();
  PendingFile file(path);
  file.append(std::as_bytes(std::span(&length, 1)));
  file.append(std::as_bytes(std::span(header)));
  for (const TensorToWrite& tensor : tensors) file.append(tensor.bytes);
  file.commit();
}

}  // namespace fulgur
