#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "runtime/prefix_index.h"

namespace fulgur {

/// Who holds which page of the caches, and which prefix lies in it. A page number means the same 64 positions
/// in every layer, latents and index keys alike, so both are shared, evicted and given back together.
///
/// A page is held by some sequences, or idle, or free. Idle pages are full and can be found by their prefix;
/// the one that was held longest ago is taken when no page is free. Pages of a sequence are released last
/// first, and whoever holds a page of the index holds those before it: so none is evicted before its
/// children.
class PagePool {
 public:
  explicit PagePool(int num_pages, PrefixIndex::Hash hash = chain_hash);

  [[nodiscard]] int num_pages() const { return static_cast<int>(holders_.size()); }
  /// Pages that nobody holds: so many can be taken.
  [[nodiscard]] int num_available() const { return static_cast<int>(free_.size() + idle_.size()); }
  [[nodiscard]] int num_idle() const { return static_cast<int>(idle_.size()); }
  [[nodiscard]] int num_holders(int page) const { return holders_[static_cast<size_t>(page)]; }

  /// A page of its own for a new holder. One must be available.
  int take() noexcept;
  /// The holder gives up pages, of which the first comes first in the sequence.
  void release(std::span<const int32_t> pages) noexcept;

  /// The cached pages of the longest prefix of `tokens`, at most `max_pages`, with a new holder.
  std::vector<int32_t> take_prefix(std::span<const int32_t> tokens, int64_t max_pages);
  /// Lets a held page, now full, be found. `parent`: the published page before it, -1 for none. Returns the
  /// page that holds this prefix: `page`, or, where another was published first, that one; the holder then
  /// holds that one in its place.
  int publish(int page, int parent, std::span<const int32_t> tokens);

 private:
  void hold(int page) noexcept;
  void release(int page) noexcept;

  PrefixIndex index_;
  std::vector<int> holders_;  // how many, one a page
  /// Without content, a heap: the lowest number is taken first, so that no memory is touched without need.
  std::vector<int> free_;
  // Each page has a node, in one of these lists: none is allocated, so that giving pages up can't fail.
  std::list<int> idle_;  // the front was held longest ago
  std::list<int> others_;
  std::vector<std::list<int>::iterator> place_;
};

}  // namespace fulgur
