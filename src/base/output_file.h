#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace fulgur {

/// A new file that is being written. Everything throws io_error, in the name of `shown`: the file that it is
/// to become.
class OutputFile {
 public:
  /// There must be none of this name.
  OutputFile(const std::filesystem::path& path, std::filesystem::path shown);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Bytes of a MappedFile that has lost them are written as zeros and flag it: ask it afterwards.
  void append(std::span<const std::byte> bytes);
  /// Anywhere, whatever has been appended; what lies between reads as zeros.
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  /// Safely on disk, and closed.
  void finish();

 private:
  std::filesystem::path shown_;
  int descriptor_ = -1;
};

}  // namespace fulgur
