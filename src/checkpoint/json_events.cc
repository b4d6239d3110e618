#include "checkpoint/json_events.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/printable.h"
#include "checkpoint/plain_json.h"

namespace fulgur {

std::string JsonEvents::parse(std::span<const std::byte> text) {
  const auto* begin = reinterpret_cast<const char*>(text.data());
  const std::string_view characters(begin, text.size());
  const size_t first = characters.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || characters[first] != '{') return "it is not a JSON object";
  // The parser takes a NUL for the end of its input; in a file it only hides what follows.
  if (const size_t nul = characters.find('\0'); nul != std::string_view::npos) {
    return fmt::format("it is not JSON: a NUL byte at {}", nul);
  }
  const bool read = is_plain_json(characters) ? PlainJson<JsonEvents>(characters, *this).read()
                                              : nlohmann::json::sax_parse(begin, begin + text.size(), this);
  if (!read && reason_.empty()) reason_ = "it is not JSON";
  return std::exchange(reason_, {});
}

bool JsonEvents::parse_error(size_t position, const std::string& token, const nlohmann::json::exception&) {
  return stop(fmt::format("it is not UTF-8 JSON: byte {}, after '{}'", position, printable(token)));
}

bool JsonEvents::stop(std::string reason) {
  if (reason_.empty()) reason_ = std::move(reason);
  return false;
}

std::string beginning_of(std::span<const std::byte> text) {
  constexpr size_t kMostShown = 40;
  if (text.empty()) return "nothing";
  const size_t shown = std::min(text.size(), kMostShown);
  return fmt::format("{} bytes that begin with '{}'", text.size(),
                     printable({reinterpret_cast<const char*>(text.data()), shown}));
}

}  // namespace fulgur
