#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fulgur {

/// Two neighbours that become one token.
struct Merge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t merged = 0;
};

/// A word that is one token as it is.
struct WholeWord {
  int32_t id = 0;
  bool added = false;  // the token is an entry of `added_tokens`
};

/// Byte-pair encoding of words: starts from single bytes and does the merge that comes first in the list,
/// leftmost first, until none applies. In time n log n of the word's length.
class BytePairEncoder {
 public:
  BytePairEncoder() = default;
  /// `byte_ids`: the token of each byte. `merges` in order of precedence; of two with the same neighbours the
  /// later one counts. `whole_words`: words that are taken as they are, without merging (tokenizer.json's
  /// `ignore_merges`).
  BytePairEncoder(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges,
                  std::unordered_map<std::string, WholeWord> whole_words);

  /// Appends the tokens of one word. Without `added_tokens` no whole word becomes one of them.
  void encode(const std::string& word, bool added_tokens, std::vector<int32_t>& ids) const;

 private:
  struct Slot {
    uint64_t pair = kNoPair;
    int32_t rank = 0;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  [[nodiscard]] size_t slot_of(int32_t left, int32_t right) const;
  /// The merge's place in the list; negative if the two don't merge.
  [[nodiscard]] int32_t rank_of(int32_t left, int32_t right) const;

  std::array<int32_t, 256> byte_ids_{};
  std::vector<Slot> slots_;      // open addressing; its size is a power of two
  std::vector<int32_t> merged_;  // by rank
  std::unordered_map<std::string, WholeWord> whole_words_;
};

}  // namespace fulgur
