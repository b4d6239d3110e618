#include "tokenizer/alphabet.h"

#include <algorithm>
#include <map>

#include "base/error.h"

namespace fulgur {
namespace {

constexpr size_t kMostKinds = 256;

}  // namespace

Alphabet::Alphabet(std::span<const CodePointSet> sets) : kinds_of_set_(sets.size()) {
  // Between two boundaries, every set holds all code points or none.
  std::vector<uint32_t> boundaries = {0};
  for (const CodePointSet& set : sets) {
    for (const CodePointRange& range : set.ranges()) {
      boundaries.push_back(range.first);
      boundaries.push_back(range.last + 1);
    }
  }
  std::sort(boundaries.begin(), boundaries.end());
  boundaries.erase(std::unique(boundaries.begin(), boundaries.end()), boundaries.end());
  if (boundaries.back() <= kLastCodePoint) boundaries.push_back(kLastCodePoint + 1);

  std::map<std::vector<bool>, uint8_t> kind_of_membership;
  std::vector<uint8_t> kind_of(kLastCodePoint + 1);
  for (size_t i = 0; i + 1 < boundaries.size(); ++i) {
    std::vector<bool> membership(sets.size());
    for (size_t s = 0; s < sets.size(); ++s) membership[s] = sets[s].contains(boundaries[i]);
    const auto kind =
        kind_of_membership.try_emplace(membership, static_cast<uint8_t>(kind_of_membership.size())).first;
    if (kind_of_membership.size() > kMostKinds) {
      throw Error(ErrorKind::kUnsupported,
                  "the regex tells more than 256 kinds of characters apart, which is not supported");
    }
    std::fill(kind_of.begin() + boundaries[i], kind_of.begin() + boundaries[i + 1], kind->second);
  }
  for (const auto& [membership, kind] : kind_of_membership) {
    for (size_t s = 0; s < sets.size(); ++s) {
      if (membership[s]) kinds_of_set_[s].push_back(kind);
    }
  }
  for (auto& kinds : kinds_of_set_) std::sort(kinds.begin(), kinds.end());

  std::map<Page, uint16_t> index_of_page;
  for (uint32_t first = 0; first <= kLastCodePoint; first += kPageSize) {
    Page page;
    std::copy_n(kind_of.begin() + first, kPageSize, page.begin());
    const auto [known, is_new] = index_of_page.try_emplace(page, static_cast<uint16_t>(pages_.size()));
    if (is_new) pages_.push_back(page);
    page_of_.push_back(known->second);
  }
}

std::string Alphabet::kinds(std::u32string_view text) const {
  std::string kinds(text.size(), '\0');
  std::transform(text.begin(), text.end(), kinds.begin(),
                 [this](char32_t c) { return static_cast<char>(kind(c)); });
  return kinds;
}

}  // namespace fulgur
