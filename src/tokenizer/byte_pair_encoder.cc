#include "tokenizer/byte_pair_encoder.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <utility>

namespace fulgur {
namespace {

constexpr uint64_t kHashFactor =
    0x9E3779B97F4A7C15;  // 2^64 over the golden ratio (Knuth, TAOCP 3, section 6.4)
constexpr size_t kSlotsPerMerge = 2;

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

/// A token of the word being merged, in a list by position.
struct Symbol {
  int32_t id;  // negative: merged into its left neighbour
  int32_t previous;
  int32_t next;  // both -1 at the ends
};

/// A merge that could be done: the earlier in the list, then the further left, the smaller.
uint64_t candidate(int32_t rank, int32_t position) {
  return static_cast<uint64_t>(rank) << 32 | static_cast<uint32_t>(position);
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges,
                                 std::unordered_map<std::string, WholeWord> whole_words)
    : byte_ids_(byte_ids),
      slots_(std::bit_ceil(kSlotsPerMerge * merges.size() + 1)),
      whole_words_(std::move(whole_words)) {
  merged_.reserve(merges.size());
  for (const Merge& merge : merges) {
    slots_[slot_of(merge.left, merge.right)] = {pair_of(merge.left, merge.right),
                                                static_cast<int32_t>(merged_.size())};
    merged_.push_back(merge.merged);
  }
}

size_t BytePairEncoder::slot_of(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  size_t slot = (pair * kHashFactor >> 32) & (slots_.size() - 1);
  while (slots_[slot].pair != pair && slots_[slot].pair != kNoPair) slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

int32_t BytePairEncoder::rank_of(int32_t left, int32_t right) const {
  const Slot& slot = slots_[slot_of(left, right)];
  return slot.pair == kNoPair ? -1 : slot.rank;
}

void BytePairEncoder::encode(const std::string& word, bool added_tokens, std::vector<int32_t>& ids) const {
  const auto whole = whole_words_.find(word);
  if (whole != whole_words_.end() && (added_tokens || !whole->second.added)) {
    ids.push_back(whole->second.id);
    return;
  }
  const auto length = static_cast<int32_t>(word.size());
  std::vector<Symbol> symbols(word.size());
  for (int32_t i = 0; i < length; ++i) {
    symbols[static_cast<size_t>(i)] = {byte_ids_[static_cast<uint8_t>(word[static_cast<size_t>(i)])], i - 1,
                                       i + 1 < length ? i + 1 : -1};
  }
  const auto at = [&](int32_t position) -> Symbol& { return symbols[static_cast<size_t>(position)]; };

  std::vector<uint64_t> queue;  // a heap, smallest first
  const auto consider = [&](int32_t left) {
    const int32_t right = left < 0 ? -1 : at(left).next;
    const int32_t rank = right < 0 ? -1 : rank_of(at(left).id, at(right).id);
    if (rank >= 0) queue.push_back(candidate(rank, left));
    return rank >= 0;
  };
  for (int32_t i = 0; i + 1 < length; ++i) consider(i);
  std::make_heap(queue.begin(), queue.end(), std::greater<>());

  while (!queue.empty()) {
    const uint64_t first = queue.front();
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    queue.pop_back();
    Symbol& left = at(static_cast<int32_t>(first & UINT32_MAX));
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = at(left.next);
    // The neighbours may have changed since this was queued.
    const int32_t merged = merged_[first >> 32];
    const int32_t rank = rank_of(left.id, right.id);
    if (rank < 0 || merged_[static_cast<size_t>(rank)] != merged) continue;

    left.id = merged;
    left.next = right.next;
    right.id = -1;
    const auto position = static_cast<int32_t>(first & UINT32_MAX);
    if (left.next >= 0) at(left.next).previous = position;
    if (consider(left.previous)) std::push_heap(queue.begin(), queue.end(), std::greater<>());
    if (consider(position)) std::push_heap(queue.begin(), queue.end(), std::greater<>());
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

}  // namespace fulgur
