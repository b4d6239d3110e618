#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
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

/// What the headers and the index of a damaged checkpoint leave open: of these tensors nothing more can be
/// said.
struct CatalogGaps {
  std::set<std::string, std::less<>> named;   // by a problem
  std::set<std::string, std::less<>> unread;  // in files that could not be read, as the index has it
  bool anything = false;                      // files could not be read, and no index says all that they hold
  /// Tensors of files that lie in the folder but aren't in its index, with the file: no fault, unless the
  /// model needs one.
  std::map<std::string, std::string, std::less<>> unlisted;

  /// Whether its absence may be the fault of what is said already.
  [[nodiscard]] bool may_hold(std::string_view tensor) const {
    return anything || named.contains(tensor) || unread.contains(tensor);
  }
  /// No fault leaves anything open.
  [[nodiscard]] bool empty() const { return !anything && named.empty() && unread.empty(); }
};

/// All tensors of a checkpoint folder, from its headers alone (docs/spec/checkpoints.md, section 1).
struct Catalog {
  std::string source;  // what lists the tensors, for messages: a file's name, or the set's
  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<CatalogEntry> entries;  // sorted by name; names are unique
  std::vector<std::string> notices;   // worth a line, no error: an index that omits tensors, ...
  CatalogGaps gaps;                   // none, but in what survey_catalog() finds damaged

  [[nodiscard]] const CatalogEntry* find(std::string_view name) const;
  /// The file it lies in, for messages; `source` for one that is drawn.
  [[nodiscard]] std::string file_of(const CatalogEntry& entry) const;
  /// io_error if that file changed since it was mapped.
  void throw_if_damaged(const CatalogEntry& entry) const;
  /// Its values needn't be held in memory any longer (MappedFile::release).
  void release(const CatalogEntry& entry) const;
  /// The values of an entry that lies in a file, as they lie there: not aligned for their type.
  [[nodiscard]] std::span<const std::byte> bytes(const CatalogEntry& entry) const;
  /// Whole elements of any entry, from its byte `begin` on, copied or drawn.
  void read(const CatalogEntry& entry, uint64_t begin, std::span<std::byte> to) const;
};

/// Where an element of a tensor is, for messages: "[2, 5]"; "[0]" where it has no dimensions. `cols`:
/// elements of its last dimension, which the shape of packed ones doesn't say.
std::string index_text(const CatalogEntry& entry, int64_t element, int64_t cols);

/// A folder's tensors as far as its headers can be read, and all that is wrong with headers and index.
struct CatalogSurvey {
  Catalog catalog;
  std::vector<Problem> problems;
};

/// Reads every header of the folder's safetensors files. Throws what is wrong with the folder alone.
CatalogSurvey survey_catalog(const std::filesystem::path& folder);
/// The same of a folder without faults: all structural problems are one Error.
Catalog read_catalog(const std::filesystem::path& folder);
/// The same for a single safetensors file.
Catalog read_safetensors(const std::filesystem::path& file);

}  // namespace fulgur
