#include "cli/token_bias.h"

#include <charconv>
#include <cmath>

namespace fulgur::cli {
namespace {

/// The whole text as a number.
template <typename T>
bool parse(std::string_view text, T& value) {
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && rest == end;
}

}  // namespace

std::optional<std::pair<int32_t, float>> parse_token_bias(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  int32_t id = 0;
  float bias = 0;
  std::string_view number = text.substr(colon + 1);
  if (number.starts_with('+') && !number.starts_with("+-")) number.remove_prefix(1);
  if (!parse(text.substr(0, colon), id) || !parse(number, bias) || id < 0 || !std::isfinite(bias)) {
    return std::nullopt;
  }
  return std::pair(id, bias);
}

}  // namespace fulgur::cli
