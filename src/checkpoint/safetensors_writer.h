#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace fulgur {

/// A tensor to be written: row-major, little endian. The bytes stay the caller's.
struct TensorToWrite {
  std::string name;
  DType dtype{};
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes a safetensors file: every tensor aligned to its type, wider types first, then by name. The file
/// appears under its name whole, or not at all (base/pending_file.h). Throws io_error; names that stand twice
/// and byte counts that are not the shape's are the caller's mistake (std::logic_error).
void write_safetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors);

}  // namespace fulgur
