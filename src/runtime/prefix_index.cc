#include "runtime/prefix_index.h"

#include <algorithm>

namespace fulgur {

uint64_t chain_hash(uint64_t parent, std::span<const int32_t> tokens) {
  // A multiply and a shift a token; what collides is told apart by its tokens.
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;  // 2^64 / golden ratio
  uint64_t hash = parent ^ kMultiplier;
  for (const int32_t token : tokens) {
    hash = (hash ^ static_cast<uint32_t>(token)) * kMultiplier;
    hash ^= hash >> 29;
  }
  return hash;
}

PrefixIndex::PrefixIndex(int num_pages, Hash hash) : hash_(hash), entries_(static_cast<size_t>(num_pages)) {}

uint64_t PrefixIndex::hash_after(int parent, std::span<const int32_t> tokens) const {
  return hash_(parent < 0 ? 0 : entries_[static_cast<size_t>(parent)].hash, tokens);
}

int PrefixIndex::find(int parent, std::span<const int32_t> tokens) const {
  const auto [begin, end] = by_hash_.equal_range(hash_after(parent, tokens));
  for (auto at = begin; at != end; ++at) {
    const Entry& entry = entries_[static_cast<size_t>(at->second)];
    if (entry.parent == parent && std::ranges::equal(entry.tokens, tokens)) return at->second;
  }
  return -1;
}

void PrefixIndex::insert(int page, int parent, std::span<const int32_t> tokens) {
  const uint64_t hash = hash_after(parent, tokens);
  by_hash_.emplace(hash, page);  // first: it may throw
  Entry& entry = entries_[static_cast<size_t>(page)];
  entry.present = true;
  entry.parent = parent;
  entry.hash = hash;
  std::ranges::copy(tokens, entry.tokens.begin());
}

void PrefixIndex::erase(int page) {
  Entry& entry = entries_[static_cast<size_t>(page)];
  entry.present = false;
  const auto [begin, end] = by_hash_.equal_range(entry.hash);
  by_hash_.erase(std::find_if(begin, end, [&](const auto& item) { return item.second == page; }));
}

}  // namespace fulgur
