#include "base/printable.h"

#include <fmt/format.h>

#include <cstddef>

namespace fulgur {

std::string printable(std::string_view text) {
  constexpr size_t kMostShown = 200;
  constexpr size_t kEndShown = 60;
  if (text.size() > kMostShown) {
    return fmt::format("{}...{}", printable(text.substr(0, kMostShown - kEndShown)),
                       printable(text.substr(text.size() - kEndShown)));
  }
  std::string shown;
  for (const char c : text) {
    if (c < 0x20 ||
        c > 0x7e) {  // char is signed: every non-ASCII byte too, so a cut character stays valid text
      shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      shown += c;
    }
  }
  return shown;
}

std::string printable_name(std::string_view name) {
  const bool plain = !name.empty() && name.find(' ') == std::string_view::npos;
  return plain ? printable(name) : fmt::format("'{}'", printable(name));
}

}  // namespace fulgur
