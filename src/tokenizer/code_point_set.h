#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fulgur {

constexpr uint32_t kLastCodePoint = 0x10FFFF;

struct CodePointRange {
  uint32_t first;
  uint32_t last;
  bool operator==(const CodePointRange&) const = default;
};

/// A set of code points as sorted ranges that don't touch.
class CodePointSet {
 public:
  CodePointSet() = default;
  explicit CodePointSet(std::vector<CodePointRange> ranges);  // in any order, may overlap

  void add(uint32_t first, uint32_t last);
  void add(const CodePointSet& other);
  [[nodiscard]] CodePointSet complement() const;
  [[nodiscard]] bool contains(uint32_t code_point) const;
  [[nodiscard]] std::span<const CodePointRange> ranges() const { return ranges_; }
  bool operator==(const CodePointSet&) const = default;

 private:
  std::vector<CodePointRange> ranges_;
};

}  // namespace fulgur
