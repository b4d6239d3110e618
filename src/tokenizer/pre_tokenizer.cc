#include "tokenizer/pre_tokenizer.h"

#include <utility>

#include "tokenizer/unicode.h"

namespace fulgur {
namespace {

// GPT-2's encoder.py.
constexpr std::string_view kByteLevelRegex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

using Pieces = std::vector<Span>;

Pieces apply(const Split& step, std::u32string& text, const Pieces& pieces) {
  return step.regex.split(text, pieces);
}

Pieces apply(const Digits& step, std::u32string& text, const Pieces& pieces) {
  Pieces cut;
  for (const Span& piece : pieces) {
    bool previous = false;
    for (size_t i = piece.begin; i < piece.end; ++i) {
      const bool numeric = unicode::numeric().contains(text[i]);
      const bool joins = i > piece.begin && numeric == previous && !(numeric && step.individual_digits);
      if (joins) {
        cut.back().end = i + 1;
      } else {
        cut.push_back({i, i + 1});
      }
      previous = numeric;
    }
  }
  return cut;
}

Pieces with_prefix_spaces(std::u32string& text, const Pieces& pieces) {
  std::u32string longer;
  Pieces moved;
  for (const Span& piece : pieces) {
    const size_t begin = longer.size();
    if (text[piece.begin] != U' ') longer += U' ';
    longer.append(text, piece.begin, piece.end - piece.begin);
    moved.push_back({begin, longer.size()});
  }
  text = std::move(longer);
  return moved;
}

Pieces apply(const ByteLevel& step, std::u32string& text, Pieces pieces) {
  Pieces cut = step.add_prefix_space ? with_prefix_spaces(text, pieces) : std::move(pieces);
  return step.regex ? step.regex->split(text, cut) : cut;
}

}  // namespace

SplitRegex PreTokenizer::byte_level_regex() { return SplitRegex(parse_regex(kByteLevelRegex)); }

std::vector<Span> PreTokenizer::split(std::u32string& text) const {
  if (text.empty()) return {};
  Pieces pieces = {{0, text.size()}};
  for (const Step& step : steps_) {
    pieces = std::visit([&](const auto& kind) { return apply(kind, text, std::move(pieces)); }, step);
  }
  return pieces;
}

}  // namespace fulgur
