#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "ops/token_batch.h"

namespace fulgur {

/// A link of the hash chain: of the 64 tokens of a page and the hash of all that is before them.
uint64_t chain_hash(uint64_t parent, std::span<const int32_t> tokens);

/// Finds a full page by the tokens in it and before it. The hash chain only says where to look: what is found
/// has the same tokens after the same page, so two prefixes whose hashes are equal never share.
class PrefixIndex {
 public:
  using Hash = uint64_t (*)(uint64_t parent, std::span<const int32_t> tokens);

  explicit PrefixIndex(int num_pages, Hash hash = chain_hash);

  /// The page that holds these tokens (a page full) after the prefix that ends in the indexed page `parent`,
  /// -1 being the start of a sequence; -1 if there is none.
  [[nodiscard]] int find(int parent, std::span<const int32_t> tokens) const;
  [[nodiscard]] bool contains(int page) const { return entries_[static_cast<size_t>(page)].present; }
  /// What isn't there yet; `parent` is.
  void insert(int page, int parent, std::span<const int32_t> tokens);
  /// A page that is no other's parent.
  void erase(int page);

 private:
  struct Entry {
    bool present = false;
    int parent = -1;
    uint64_t hash = 0;
    std::array<int32_t, kPageTokens> tokens{};
  };
  [[nodiscard]] uint64_t hash_after(int parent, std::span<const int32_t> tokens) const;

  Hash hash_;
  std::vector<Entry> entries_;                      // one a page
  std::unordered_multimap<uint64_t, int> by_hash_;  // pages
};

}  // namespace fulgur
