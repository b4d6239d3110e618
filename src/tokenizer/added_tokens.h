#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fulgur {

/// An entry of tokenizer.json's `added_tokens`: text that becomes one id wherever it stands.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes in white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // its normal form is looked for, in normalized text
  bool special = false;      // a control token
};

/// A part of a text: an added token, or text between them.
struct AddedTokenSplit {
  std::string_view text;
  std::optional<int32_t> id;
};

/// Finds some added tokens in text: leftmost, and of those the longest. Overlaps and flags as the
/// `tokenizers` package treats them.
class AddedTokenFinder {
 public:
  /// `tokens` with the text by which each is found: no text twice, none empty.
  explicit AddedTokenFinder(const std::vector<std::pair<std::string, AddedToken>>& tokens);

  [[nodiscard]] bool empty() const { return tokens_.empty(); }
  /// All of `text` in parts; text parts are not empty.
  [[nodiscard]] std::vector<AddedTokenSplit> split(std::string_view text) const;

 private:
  struct Node {
    std::unordered_map<char, uint32_t> next;
    int32_t token = -1;  // index into tokens_, if one ends here
  };
  struct Match {
    size_t end = 0;
    int32_t token = -1;
  };
  [[nodiscard]] Match longest_at(std::string_view text, size_t begin) const;

  std::vector<Node> nodes_;  // a tree of prefixes; the first is its root
  std::vector<AddedToken> tokens_;
  std::array<bool, 256> starts_token_{};  // by first byte
};

}  // namespace fulgur
