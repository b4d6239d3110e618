#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

namespace fulgur {

/// A whole file, mapped read-only for as long as this lives. A page that vanishes because the file shrank
/// reads as zeros and flags the file instead of killing the process (a SIGBUS handler that touches mapped
/// ranges only): check `throw_if_damaged()` after reading.
class MappedFile {
 public:
  /// Throws io_error: not there, not a regular file (links are followed), unreadable.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_}; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  /// The last component of the path, for messages.
  [[nodiscard]] std::string file_name() const { return path_.filename().string(); }

  [[nodiscard]] bool damaged() const;
  /// io_error if a part of the file could not be read since it was mapped.
  void throw_if_damaged() const;

 private:
  MappedFile() = default;
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int slot_ = -1;  // in the handler's table of ranges
};

}  // namespace fulgur
