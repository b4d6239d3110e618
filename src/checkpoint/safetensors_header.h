#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "checkpoint/catalog.h"

namespace fulgur {

/// The longest header, and index, that is read (checkpoints.md, section 1).
constexpr uint64_t kMostHeaderBytes = 100'000'000;

/// Reads and checks the header of one safetensors file against all of checkpoints.md, section 1. The entries,
/// sorted by name, with `file` as their file; what is wrong is appended to `problems`, and the entries then
/// mean nothing.
std::vector<CatalogEntry> read_header(const MappedFile& mapped, int file, std::vector<Problem>& problems);

/// "[192, 7168]"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace fulgur
