#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "checkpoint/catalog.h"
#include "checkpoint/load_team.h"

namespace fulgur {

/// The parts of files that a load uses where they lie. Left alone, their pages are read when a kernel first
/// touches them, one fault after the other in the order of the model; here they are read at load, on all
/// threads, in the order in which they lie on the disk.
class MappedPages {
 public:
  explicit MappedPages(const Catalog& catalog) : catalog_(catalog) {}

  void add(const CatalogEntry& entry);
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  /// Nothing is read if it is more than the memory that is available: the first pages would be gone again
  /// before the last are read. What is counted as loaded is the same.
  void read(LoadTeam& team);

 private:
  struct Part {
    int file = 0;
    uint64_t begin = 0;
    uint64_t end = 0;
  };
  [[nodiscard]] std::vector<Part> pieces() const;

  const Catalog& catalog_;
  std::vector<Part> parts_;
  uint64_t bytes_ = 0;
};

}  // namespace fulgur
