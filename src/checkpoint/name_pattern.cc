#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>

#include "checkpoint/parameter.h"

namespace fulgur {
namespace {

/// Takes the first dotted component off `rest`; `rest` becomes empty after the last one.
std::string_view take_component(std::optional<std::string_view>& rest) {
  const size_t dot = rest->find('.');
  const std::string_view component = rest->substr(0, dot);
  rest = dot == std::string_view::npos ? std::nullopt : std::optional(rest->substr(dot + 1));
  return component;
}

std::optional<uint64_t> parse_number(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
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

bool rest_matches(std::optional<std::string_view> name, std::optional<std::string_view> pattern) {
  while (pattern) {
    const std::string_view want = take_component(pattern);
    if (want == "**") {
      while (true) {
        if (rest_matches(name, pattern)) return true;
        if (!name) return false;
        take_component(name);
      }
    }
    if (!name || !component_matches(take_component(name), want)) return false;
  }
  return !name;
}

}  // namespace

bool matches_pattern(std::string_view name, std::string_view pattern) { return rest_matches(name, pattern); }

}  // namespace fulgur
