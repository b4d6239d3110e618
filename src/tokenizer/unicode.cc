#include "tokenizer/unicode.h"

#include <array>
#include <cctype>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fulgur::unicode {
namespace {

struct CaseFold {
  uint32_t code_point;
  char letter;
};

#include "tokenizer/unicode_table.inc"

template <typename IsWanted>
CodePointSet with_category(const IsWanted& is_wanted) {
  std::vector<CodePointRange> ranges;
  const std::span runs(kCategoryRuns);
  for (size_t i = 0; i < runs.size(); ++i) {
    const uint32_t end = i + 1 < runs.size() ? runs[i + 1] >> 5 : kLastCodePoint + 1;
    if (is_wanted(runs[i] & 31)) ranges.push_back({runs[i] >> 5, end - 1});
  }
  return CodePointSet(std::move(ranges));
}

/// The categories of the mask, with membership turned round in each of the ranges.
CodePointSet toggled(uint32_t categories, std::span<const CodePointRange> turned) {
  const CodePointSet base = with_category([&](uint32_t category) { return categories >> category & 1; });
  std::vector<CodePointRange> ranges;
  uint32_t next = 0;  // where the part of `base` that is still to be copied begins
  const auto copy = [&](const CodePointSet& from, uint32_t begin, uint32_t end) {
    for (const CodePointRange& range : from.ranges()) {
      const CodePointRange part{std::max(range.first, begin), std::min(range.last + 1, end)};
      if (part.first < part.last) ranges.push_back({part.first, part.last - 1});
    }
  };
  const CodePointSet outside = base.complement();
  for (const CodePointRange& range : turned) {
    if (range.first > range.last) continue;  // the table's stand-in for no ranges at all
    copy(base, next, range.first);
    copy(outside, range.first, range.last + 1);
    next = range.last + 1;
  }
  copy(base, next, kLastCodePoint + 1);
  return CodePointSet(std::move(ranges));
}

}  // namespace

std::optional<CodePointSet> category(std::string_view name) {
  if (name.empty() || name.size() > 2) return std::nullopt;
  std::string wanted{static_cast<char>(std::toupper(static_cast<unsigned char>(name[0])))};
  if (name.size() == 2) wanted += static_cast<char>(std::tolower(static_cast<unsigned char>(name[1])));
  CodePointSet set =
      with_category([&](uint32_t c) { return kCategoryNames[c].substr(0, wanted.size()) == wanted; });
  if (set.ranges().empty()) return std::nullopt;
  return set;
}

const CodePointSet& regex_space() {
  static const CodePointSet set = toggled(kRegexSpaceCategories, kRegexSpaceToggled);
  return set;
}

const CodePointSet& regex_digit() {
  static const CodePointSet set = toggled(kRegexDigitCategories, kRegexDigitToggled);
  return set;
}

const CodePointSet& regex_word() {
  static const CodePointSet set = toggled(kRegexWordCategories, kRegexWordToggled);
  return set;
}

const CodePointSet& numeric() {
  static const CodePointSet set = toggled(kNumericCategories, kNumericToggled);
  return set;
}

const CodePointSet& word() {
  static const CodePointSet set = toggled(kWordCategories, kWordToggled);
  return set;
}

const CodePointSet& space() {
  static const CodePointSet set = toggled(kSpaceCategories, kSpaceToggled);
  return set;
}

const CodePointSet& nfc_active() {
  static const CodePointSet set = toggled(kNfcActiveCategories, kNfcActiveToggled);
  return set;
}

CodePointSet ignoring_case(char ascii) {
  const auto byte = static_cast<unsigned char>(ascii);
  CodePointSet set({{byte, byte}});
  if (std::isalpha(byte) == 0) return set;
  const auto lower = static_cast<char>(std::tolower(byte));
  const auto upper = static_cast<uint32_t>(std::toupper(byte));
  set = CodePointSet({{static_cast<uint32_t>(lower), static_cast<uint32_t>(lower)}, {upper, upper}});
  for (const CaseFold& fold : kCaseFolds) {
    if (fold.letter == lower) set.add(fold.code_point, fold.code_point);
  }
  return set;
}

}  // namespace fulgur::unicode
