#include "cli/byte_size.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <string>

namespace fulgur::cli {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr std::array<Unit, 14> kUnits = {{{"", 1},
                                          {"B", 1},
                                          {"KB", 1e3},
                                          {"MB", 1e6},
                                          {"GB", 1e9},
                                          {"TB", 1e12},
                                          {"KIB", 0x1p10},
                                          {"MIB", 0x1p20},
                                          {"GIB", 0x1p30},
                                          {"TIB", 0x1p40},
                                          {"K", 0x1p10},
                                          {"M", 0x1p20},
                                          {"G", 0x1p30},
                                          {"T", 0x1p40}}};

char upper(char c) { return static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c); }

}  // namespace

std::optional<uint64_t> parse_byte_size(std::string_view text) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc()) return std::nullopt;
  std::string name(rest, end);
  std::transform(name.begin(), name.end(), name.begin(), upper);
  const auto unit =
      std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& known) { return known.name == name; });
  if (unit == kUnits.end()) return std::nullopt;
  constexpr double kMost = 0x1p62;
  const double bytes = number * unit->bytes;
  if (!(bytes >= 1 && bytes <= kMost)) return std::nullopt;  // nor a NaN
  return static_cast<uint64_t>(bytes);
}

}  // namespace fulgur::cli
