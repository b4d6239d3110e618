#include "checkpoint/mapped_pages.h"

#include <algorithm>
#include <tuple>

#include "base/available_memory.h"

namespace fulgur {
namespace {

/// Read at once by one thread: enough for the disk's queue, and the progress bar still moves.
constexpr uint64_t kPieceBytes = 8 << 20;
/// The disk is never idle while pages are mapped.
constexpr size_t kPiecesAhead = 8;

}  // namespace

void MappedPages::add(const CatalogEntry& entry) {
  if (entry.bytes == 0) return;
  parts_.push_back({entry.file, entry.offset, entry.offset + entry.bytes});
  bytes_ += entry.bytes;
}

/// Neighbours as one, in the files' order, cut to pieces.
std::vector<MappedPages::Part> MappedPages::pieces() const {
  std::vector<Part> sorted = parts_;
  std::sort(sorted.begin(), sorted.end(), [](const Part& a, const Part& b) {
    return std::tie(a.file, a.begin) < std::tie(b.file, b.begin);
  });
  std::vector<Part> pieces;
  for (Part part : sorted) {
    while (part.begin < part.end) {
      const bool joins = !pieces.empty() && pieces.back().file == part.file &&
                         pieces.back().end == part.begin &&
                         pieces.back().end - pieces.back().begin < kPieceBytes;
      if (!joins) pieces.push_back({part.file, part.begin, part.begin});
      Part& last = pieces.back();
      last.end = std::min(part.end, last.begin + kPieceBytes);
      part.begin = last.end;
    }
  }
  return pieces;
}

void MappedPages::read(LoadTeam& team) {
  const std::optional<uint64_t> available = available_memory_bytes();
  if (bytes_ == 0 || (available && bytes_ > *available)) {
    team.add(bytes_);
    return;
  }
  const std::vector<Part> all = pieces();
  const auto file = [&](const Part& piece) { return catalog_.files[static_cast<size_t>(piece.file)]; };
  const auto read_ahead = [&](size_t i) {
    if (i < all.size()) file(all[i])->read_ahead(all[i].begin, all[i].end - all[i].begin);
  };
  for (size_t i = 0; i < kPiecesAhead; ++i) read_ahead(i);
  team.run(all.size(), [&](size_t i, int) {
    read_ahead(i + kPiecesAhead);
    file(all[i])->populate(all[i].begin, all[i].end - all[i].begin);
    return all[i].end - all[i].begin;
  });
}

}  // namespace fulgur
