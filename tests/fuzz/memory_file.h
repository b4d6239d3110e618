#pragma once

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "refusal.h"

namespace fulgur::fuzz {

/// A file that never touches a disk, written anew for every input.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("input", MFD_CLOEXEC)) {
    check(descriptor_ >= 0, "No file in memory");
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  void write(std::string_view bytes) const {
    const bool written = ftruncate(descriptor_, 0) == 0 && pwrite(descriptor_, bytes.data(), bytes.size(),
                                                                  0) == static_cast<ssize_t>(bytes.size());
    const timespec long_ago[] = {{1, 1}, {1, 1}};  // opening a new file waits for the clock
    check(written && futimens(descriptor_, long_ago) == 0, "The file in memory can't be written");
  }
  [[nodiscard]] std::filesystem::path path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

}  // namespace fulgur::fuzz
