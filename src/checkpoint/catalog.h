#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "base/mapped_file.h"
#include "checkpoint/draw.h"

namespace fulgur {

/// One tensor and where its bytes come from: a range of a file, or a generator.
struct CatalogEntry {
  std::string name;
  std::string dtype_name;    // as the header spells it
  bool dtype_known = false;  // false: `dtype` means nothing
  DType dtype{};
  std::vector<int64_t> shape;
  int file = 0;         // index into Catalog::files
  uint64_t offset = 0;  // from the file's start
  uint64_t bytes = 0;
  std::optional<Draw> drawn;  // the generator; then `file` and `offset` mean nothing
};

/// All tensors of a checkpoint folder, from its headers alone (docs/spec/checkpoints.md, section 1).
struct Catalog {
  std::string source;  // what lists the tensors, for messages: a file's name, or the set's
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<CatalogEntry> entries;  // sorted by name; names are unique
  std::vector<std::string> notices;   // worth a line, no error: an index that omits tensors, ...

  [[nodiscard]] const CatalogEntry* find(std::string_view name) const;
  /// The file it lies in, for messages; `source` for one that is drawn.
  [[nodiscard]] std::string file_of(const CatalogEntry& entry) const;
  /// io_error if that file changed since it was mapped.
  void throw_if_damaged(const CatalogEntry& entry) const;
  /// The values of an entry that lies in a file, as they lie there: not aligned for their type.
  [[nodiscard]] std::span<const std::byte> bytes(const CatalogEntry& entry) const;
  /// Whole elements of any entry, from its byte `begin` on, copied or drawn.
  void read(const CatalogEntry& entry, uint64_t begin, std::span<std::byte> to) const;
};

/// Where an element of a tensor is, for messages: "[2, 5]"; "[0]" where it has no dimensions. `cols`:
/// elements of its last dimension, which the shape of packed ones doesn't say.
std::string index_text(const CatalogEntry& entry, int64_t element, int64_t cols);

/// Reads every header of the folder's safetensors files. All structural problems are reported together: an
/// Error with one Problem each.
Catalog read_catalog(const std::filesystem::path& folder);
/// The same for a single safetensors file.
Catalog read_safetensors(const std::filesystem::path& file);

}  // namespace fulgur
