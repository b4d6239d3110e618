#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/code_point_set.h"

namespace fulgur {

/// A regex in which every character, class and escape is a set of code points, and all else is syntax that
/// Oniguruma (in whose syntax tokenizer.json writes) and PCRE2 read alike.
struct SetPattern {
  struct Part {
    std::string syntax;
    int set = -1;  // index into `sets`, if this part is one
  };
  std::vector<Part> parts;
  std::vector<CodePointSet> sets;  // distinct

  void append(std::string syntax) { parts.push_back({std::move(syntax), -1}); }
  void append(const CodePointSet& set);
};

/// Reads what the tokenizers of these models use of Oniguruma's Ruby syntax: alternatives, groups, (?i:...),
/// atomic groups, look-around, greedy, lazy and possessive repetition, classes, \p{..} with general
/// categories, \s \d \w. Throws `unsupported` for anything else, which it names, and `bad_tokenizer` for what
/// is no regex.
SetPattern parse_regex(std::string_view pattern);

/// The pattern that matches just `text`, which must be valid UTF-8.
SetPattern literal_pattern(std::string_view text);

}  // namespace fulgur
