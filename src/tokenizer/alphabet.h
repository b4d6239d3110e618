#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/code_point_set.h"

namespace fulgur {

/// The coarsest division of all code points into kinds such that each of the given sets is a union of kinds.
/// A kind is a byte.
class Alphabet {
 public:
  /// Throws `unsupported` if there are more than 256 kinds.
  explicit Alphabet(std::span<const CodePointSet> sets);

  [[nodiscard]] uint8_t kind(char32_t c) const { return pages_[page_of_[c / kPageSize]][c % kPageSize]; }
  /// The kind of each code point, a byte each.
  [[nodiscard]] std::string kinds(std::u32string_view text) const;
  /// The kinds that make up set `index`, ascending.
  [[nodiscard]] const std::vector<uint8_t>& kinds_of_set(size_t index) const { return kinds_of_set_[index]; }

 private:
  static constexpr uint32_t kPageSize = 256;
  using Page = std::array<uint8_t, kPageSize>;

  std::vector<uint16_t> page_of_;  // [code point / kPageSize]
  std::vector<Page> pages_;        // distinct
  std::vector<std::vector<uint8_t>> kinds_of_set_;
};

}  // namespace fulgur
