#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>
#include <system_error>

#include "checkpoint/parameter.h"

namespace fulgur {
namespace {

/// What is left of a dotted name: empty behind the last component (an empty string is still one, empty
/// component).
using Components = std::optional<std::string_view>;

std::string_view first_component(const Components& rest) { return rest->substr(0, rest->find('.')); }

void take_component(Components& rest) {
  const size_t dot = rest->find('.');
  rest = dot == std::string_view::npos ? std::nullopt : Components(rest->substr(dot + 1));
}

/// A number that is too large for the type is the largest: a file may call its layers anything.
std::optional<uint64_t> parse_number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range) value = std::numeric_limits<uint64_t>::max();
  if (error == std::errc::invalid_argument || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool component_matches(std::string_view component, std::string_view pattern) {
  if (pattern == "*") return true;
  if (pattern.starts_with(">=")) {
    const auto number = parse_number(component);
    const auto least = parse_number(pattern.substr(2));
    return number && least && *number >= *least;
  }
  return component == pattern;
}

}  // namespace

// A `**` first stands for nothing and takes one more component each time that what follows fails. Only the
// last one met ever has to grow: linear in the name for a pattern of fixed length, whatever a file calls its
// tensors.
bool matches_pattern(std::string_view name, std::string_view pattern) {
  Components names = name;
  Components wanted = pattern;
  std::optional<Components> after_gap;  // the pattern behind the last `**`
  Components gap_end;                   // where the name goes on behind it
  while (true) {
    if (wanted && first_component(wanted) == "**") {
      take_component(wanted);
      after_gap = wanted;
      gap_end = names;
    } else if (names && wanted && component_matches(first_component(names), first_component(wanted))) {
      take_component(names);
      take_component(wanted);
    } else if (!names && !wanted) {
      return true;
    } else if (after_gap && gap_end) {
      take_component(gap_end);
      names = gap_end;
      wanted = *after_gap;
    } else {
      return false;
    }
  }
}

}  // namespace fulgur
