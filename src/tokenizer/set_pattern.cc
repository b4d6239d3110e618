#include "tokenizer/set_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"
#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

constexpr int kDeepestGroup = 100;
constexpr int kMostRepeats = 65535;  // PCRE2's

/// Pairs of letters that a single character equals where case is ignored (CaseFolding.txt, status F:
/// U+FB00.., U+00DF).
constexpr std::string_view kFoldedPairs[] = {"ss", "st", "ff", "fi", "fl"};

CodePointSet single(char32_t c) { return CodePointSet({{c, c}}); }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  SetPattern run() {
    alternatives();
    if (!done()) bad("a group is closed that was not opened");
    return std::move(out_);
  }

 private:
  [[nodiscard]] bool done() const { return at_ == text_.size(); }
  [[nodiscard]] bool starts_with(std::string_view what) const { return text_.substr(at_).starts_with(what); }
  bool take(std::string_view what) {
    if (!starts_with(what)) return false;
    at_ += what.size();
    return true;
  }
  char32_t take_character() {
    const Utf8Step step = next_utf8(text_.substr(at_));
    at_ += step.length;
    return step.code_point;
  }

  [[noreturn]] void bad(std::string_view why) const {
    throw Error(ErrorKind::kBadTokenizer,
                fmt::format("the regex {} can't be read: {} (byte {})", quote(text_), why, at_));
  }
  [[noreturn]] void unsupported(size_t begin, size_t end, std::string_view why = "is not supported") const {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{} in the regex {} {} (byte {})", quote(text_.substr(begin, end - begin)),
                            quote(text_), why, begin));
  }

  void alternatives() {
    previous_letter_ = 0;
    while (!done() && !starts_with(")")) {
      if (take("|")) {
        out_.append("|");
        previous_letter_ = 0;
      } else {
        repeated();
      }
    }
  }

  void repeated() {
    const size_t begin = out_.parts.size();
    const bool can_repeat = atom();
    const size_t quantifier = at_;
    std::optional<std::string> repeat = repetition();
    if (!repeat) return;
    if (!can_repeat) unsupported(quantifier, at_, "repeats a look-around, which is not supported");
    previous_letter_ = 0;
    const bool interval = repeat->front() == '{';
    if (interval && take("+")) {
      // Ruby's x{n,m}+ is no possessive repetition, but (?:x{n,m})+.
      out_.parts.insert(out_.parts.begin() + static_cast<std::ptrdiff_t>(begin), {"(?:", -1});
      out_.append(*repeat + ")+");
    } else if (interval && repeat->find(',') == std::string::npos && starts_with("?")) {
      unsupported(quantifier, at_ + 1);
    } else if (take("?")) {
      out_.append(*repeat + "?");
    } else if (!interval && take("+")) {
      out_.append(*repeat + "+");
    } else {
      out_.append(*repeat);
    }
    if (repetition()) unsupported(quantifier, at_, "is one repetition too many");
  }

  /// `*`, `+`, `?` or `{n,m}` in PCRE2's spelling, if there is one here.
  std::optional<std::string> repetition() {
    for (const std::string_view sign : {"*", "+", "?"}) {
      if (take(sign)) return std::string(sign);
    }
    const size_t begin = at_;
    if (!take("{")) return std::nullopt;
    const std::optional<int> low = number();
    const bool comma = take(",");
    const std::optional<int> high = comma ? number() : low;
    if (!take("}") || (!low && !high))
      unsupported(begin, text_.size(), R"(is not supported: write \{ for a brace)");
    if (low && high && *low > *high) bad("a repetition's least number is above its most");
    return fmt::format("{{{}{}{}}}", low.value_or(0), comma ? "," : "",
                       comma && high ? std::to_string(*high) : "");
  }

  std::optional<int> number() {
    int value = 0;
    const auto [end, error] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
    if (end == text_.data() + at_) return std::nullopt;
    if (error != std::errc() || value < 0 || value > kMostRepeats) bad("a repetition has no usable number");
    at_ = static_cast<size_t>(end - text_.data());
    return value;
  }

  /// False for what can't be repeated.
  bool atom() {
    if (starts_with("(")) return group();
    if (starts_with("[")) {
      previous_letter_ = 0;
      out_.append(char_class());
      return true;
    }
    for (const std::string_view sign : {"*", "+", "?", "{"}) {
      if (starts_with(sign)) bad("a repetition has nothing to repeat");
    }
    for (const std::string_view sign : {"^", "$"}) {
      if (starts_with(sign)) unsupported(at_, at_ + 1);
    }
    if (take(".")) {
      previous_letter_ = 0;
      out_.append(single('\n').complement());
    } else if (starts_with("\\")) {
      const size_t begin = at_;
      char32_t c = 0;
      if (const auto set = escape(c)) {
        if (ignore_case_) unsupported(begin, at_, "is not supported where case is ignored");
        previous_letter_ = 0;
        out_.append(*set);
      } else {
        literal(c, begin);
      }
    } else {
      const size_t begin = at_;
      literal(take_character(), begin);
    }
    return true;
  }

  void literal(char32_t c, size_t begin) {
    if (!ignore_case_) {
      out_.append(single(c));
      return;
    }
    if (c > 0x7F) unsupported(begin, at_, "is not supported where case is ignored");
    const char letter = static_cast<char>(c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c);
    for (const std::string_view pair : kFoldedPairs) {
      if (previous_letter_ == pair[0] && letter == pair[1]) {
        unsupported(begin - 1, at_, "is not supported where case is ignored: single characters equal it");
      }
    }
    previous_letter_ = letter;
    out_.append(unicode::ignoring_case(letter));
  }

  bool group() {
    const size_t begin = at_;
    const bool outer_ignore_case = ignore_case_;
    bool can_repeat = true;
    ++at_;
    if (!take("?")) {
      out_.append("(?:");
    } else if (take("i:")) {
      ignore_case_ = true;
      out_.append("(?:");
    } else if (take("-i:")) {
      ignore_case_ = false;
      out_.append("(?:");
    } else {
      bool known = false;
      for (const std::string_view kind : {":", ">", "=", "!", "<=", "<!"}) {
        if (known || !take(kind)) continue;
        known = true;
        out_.append("(?" + std::string(kind));
        can_repeat = kind == ":" || kind == ">";
      }
      if (!known) unsupported(begin, std::min(begin + 3, text_.size()));
    }
    if (++depth_ > kDeepestGroup) bad("its groups are nested too deep");
    alternatives();
    --depth_;
    previous_letter_ = 0;
    ignore_case_ = outer_ignore_case;
    if (!take(")")) bad("a group is not closed");
    out_.append(")");
    return can_repeat;
  }

  CodePointSet char_class() {
    const size_t begin = at_;
    ++at_;
    const bool negated = take("^");
    if (ignore_case_ && negated) unsupported(begin, at_, "is not supported where case is ignored");
    if (starts_with("]")) unsupported(begin, at_ + 1);
    std::vector<CodePointRange> ranges;
    while (true) {
      if (done()) bad("a character class is not closed");
      if (take("]")) break;
      if (starts_with("[") || starts_with("&&")) unsupported(at_, at_ + 2);
      class_member(ranges);
    }
    CodePointSet set(std::move(ranges));
    return negated ? set.complement() : set;
  }

  void class_member(std::vector<CodePointRange>& ranges) {
    const size_t begin = at_;
    char32_t first = 0;
    if (const auto set = class_character(first)) {
      if (ignore_case_) unsupported(begin, at_, "is not supported where case is ignored");
      if (starts_with("-") && !starts_with("-]")) unsupported(begin, at_ + 1);
      ranges.insert(ranges.end(), set->ranges().begin(), set->ranges().end());
      return;
    }
    char32_t last = first;
    if (starts_with("-") && !starts_with("-]")) {
      ++at_;
      if (done()) bad("a character class is not closed");
      if (starts_with("[")) unsupported(begin, at_ + 1);
      if (class_character(last)) unsupported(begin, at_);
      if (last < first) bad("a range of a character class ends before it begins");
    }
    if (!ignore_case_) {
      ranges.push_back({first, last});
      return;
    }
    if (last > 0x7F) unsupported(begin, at_, "is not supported where case is ignored");
    for (char32_t c = first; c <= last; ++c) {
      const CodePointSet folds = unicode::ignoring_case(static_cast<char>(c));
      ranges.insert(ranges.end(), folds.ranges().begin(), folds.ranges().end());
    }
  }

  /// The set that an escape stands for, or none and `c`.
  std::optional<CodePointSet> class_character(char32_t& c) {
    if (starts_with("\\")) return escape(c);
    c = take_character();
    return std::nullopt;
  }

  std::optional<CodePointSet> escape(char32_t& c) {
    const size_t begin = at_;
    ++at_;
    if (done()) bad("it ends in a backslash");
    const char32_t kind = take_character();
    switch (kind) {
      case 's':
        return unicode::regex_space();
      case 'S':
        return unicode::regex_space().complement();
      case 'd':
        return unicode::regex_digit();
      case 'D':
        return unicode::regex_digit().complement();
      case 'w':
        return unicode::regex_word();
      case 'W':
        return unicode::regex_word().complement();
      case 'p':
        return property(begin, false);
      case 'P':
        return property(begin, true);
      case 'n':
        c = '\n';
        return std::nullopt;
      case 'r':
        c = '\r';
        return std::nullopt;
      case 't':
        c = '\t';
        return std::nullopt;
      case 'f':
        c = '\f';
        return std::nullopt;
      case 'v':
        c = '\v';
        return std::nullopt;
      case 'u':
        c = hex(begin, 4);
        return std::nullopt;
      case 'x':
        c = take("{") ? hex(begin, 0) : hex(begin, 2);
        return std::nullopt;
      default:
        break;
    }
    const bool letter_or_digit =
        (kind >= '0' && kind <= '9') || ((kind | 0x20) >= 'a' && (kind | 0x20) <= 'z');
    if (letter_or_digit || kind > 0x7F) unsupported(begin, at_);
    c = kind;
    return std::nullopt;
  }

  CodePointSet property(size_t begin, bool negated) {
    const size_t end = text_.find('}', at_);
    if (!take("{") || end == std::string_view::npos) unsupported(begin, at_);
    if (take("^")) negated = !negated;
    const auto set = unicode::category(text_.substr(at_, end - at_));
    at_ = end + 1;
    if (!set) unsupported(begin, at_, "is not supported: general categories are, such as L or Lu");
    return negated ? set->complement() : *set;
  }

  /// `digits` hexadecimal digits; if that is 0, as many as there are up to a closing brace.
  char32_t hex(size_t begin, size_t digits) {
    const size_t end = digits > 0 ? std::min(at_ + digits, text_.size()) : text_.find('}', at_);
    if (end == std::string_view::npos) bad(R"(\x{ is not closed)");
    uint32_t value = 0;
    const auto [stop, error] = std::from_chars(text_.data() + at_, text_.data() + end, value, 16);
    const bool short_of_digits = end == at_ || (digits > 0 && end - at_ < digits);
    if (error != std::errc() || stop != text_.data() + end || short_of_digits) {
      bad("an escape has no hexadecimal number");
    }
    at_ = digits > 0 ? end : end + 1;
    // Two digits above 7F are a byte, not a code point, to Oniguruma.
    if (value > kLastCodePoint || (digits == 2 && value > 0x7F)) unsupported(begin, at_);
    return value;
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  bool ignore_case_ = false;
  char previous_letter_ = 0;  // the literal just before, where case is ignored
  SetPattern out_;
};

}  // namespace

void SetPattern::append(const CodePointSet& set) {
  const auto known = std::find(sets.begin(), sets.end(), set);
  parts.push_back({"", static_cast<int>(known - sets.begin())});
  if (known == sets.end()) sets.push_back(set);
}

SetPattern parse_regex(std::string_view pattern) { return Parser(pattern).run(); }

SetPattern literal_pattern(std::string_view text) {
  SetPattern pattern;
  for (const char32_t c : decode_utf8(text)) pattern.append(single(c));
  return pattern;
}

}  // namespace fulgur
