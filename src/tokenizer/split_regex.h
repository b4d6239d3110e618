#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/alphabet.h"
#include "tokenizer/set_pattern.h"

struct pcre2_real_code_8;

namespace fulgur {

/// Code points [begin, end) of a text.
struct Span {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const Span&) const = default;
};

/// A regex that cuts text. PCRE2 sees neither Unicode nor its own tables: the pattern's sets divide the code
/// points into a few kinds (Alphabet), text becomes one byte a code point, and each class a class of such
/// bytes, which PCRE2 compiles to table look-ups. So its Unicode version doesn't matter, and \p{L} costs as
/// little as [a-z].
class SplitRegex {
 public:
  /// Throws `unsupported` for patterns with more kinds than a byte holds or that PCRE2 refuses.
  explicit SplitRegex(const SetPattern& pattern);

  /// Cuts each piece of `text` into its matches and what lies between them (tokenizer.json's behaviour
  /// "Isolated"). A look-around sees nothing outside its piece. Throws `bad_request` if a match takes too
  /// many steps.
  [[nodiscard]] std::vector<Span> split(std::u32string_view text, const std::vector<Span>& pieces) const;

 private:
  struct FreeCode {
    void operator()(pcre2_real_code_8* code) const;
  };
  Alphabet alphabet_;
  std::unique_ptr<pcre2_real_code_8, FreeCode> code_;
};

}  // namespace fulgur
