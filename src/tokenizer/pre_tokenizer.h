#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "tokenizer/split_regex.h"

namespace fulgur {

/// tokenizer.json's Split with behaviour Isolated. (`invert` exchanges matches and what lies between them,
/// which Isolated treats alike.)
struct Split {
  SplitRegex regex;
};

/// Numeric characters apart from others: each alone, or in runs.
struct Digits {
  bool individual_digits = false;
};

/// A space before each piece that has none, then GPT-2's regex, both only if asked for. (The spelling of
/// bytes is in the vocabulary's reader: src/tokenizer/byte_alphabet.h.)
struct ByteLevel {
  bool add_prefix_space = false;
  std::optional<SplitRegex> regex;
};

/// Cuts text into the words that merges stay within.
class PreTokenizer {
 public:
  using Step = std::variant<Split, Digits, ByteLevel>;

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}

  /// The words of `text`, in order and none empty; `text` itself grows by the prefix spaces.
  [[nodiscard]] std::vector<Span> split(std::u32string& text) const;

  /// The regex that ByteLevel uses with `use_regex`.
  static SplitRegex byte_level_regex();

 private:
  std::vector<Step> steps_;
};

}  // namespace fulgur
