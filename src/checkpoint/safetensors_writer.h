#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "base/pending_file.h"
#include "checkpoint/safetensors_layout.h"

namespace fulgur {

/// Writes a safetensors file whose tensors are known before their bytes are: every tensor aligned to its
/// type, wider types first, otherwise in their order. The file appears under its name whole, or not at all
/// (base/pending_file.h).
class SafetensorsWriter {
 public:
  /// `tensors` are looked at here only. Throws io_error; names that stand twice are the caller's mistake
  /// (std::logic_error).
  SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorToPlace> tensors);

  /// The whole of a tensor, by its index, row-major and little endian; each once, in any order. Throws
  /// io_error, or std::logic_error for other bytes than it takes.
  void write(size_t tensor, std::span<const std::byte> bytes);
  /// Throws io_error; the file is then not there.
  void commit();

 private:
  struct Place {
    uint64_t offset;
    uint64_t bytes;
  };
  SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorToPlace> tensors,
                    const SafetensorsLayout& layout);

  std::vector<Place> places_;
  PendingFile file_;
};

}  // namespace fulgur
