#include "tokenizer/utf8.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace fulgur {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

/// What may follow a lead byte (Unicode Standard, table 3-7).
struct Lead {
  size_t length;  // of the whole character; 0: no lead byte
  uint8_t first_low, first_high;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step next_utf8(std::string_view text) {
  const auto first = static_cast<uint8_t>(text[0]);
  const Lead lead = lead_of(first);
  if (lead.length == 0) return {Utf8Step::kInvalid, 1, 0};
  if (lead.length == 1) return {Utf8Step::kCharacter, 1, first};
  char32_t code_point = first & (0xFFU >> (lead.length + 1));
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Step::kIncomplete, i, 0};
    const auto byte = static_cast<uint8_t>(text[i]);
    if (byte < (i == 1 ? lead.first_low : 0x80) || byte > (i == 1 ? lead.first_high : 0xBF)) {
      return {Utf8Step::kInvalid, i, 0};
    }
    code_point = code_point << 6 | (byte & 0x3F);
  }
  return {Utf8Step::kCharacter, lead.length, code_point};
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text.substr(at));
    if (step.kind != Utf8Step::kCharacter) return at;
    at += step.length;
  }
  return std::string_view::npos;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string code_points;
  code_points.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = next_utf8(text.substr(at));
    code_points.push_back(step.code_point);
    at += step.length;
  }
  return code_points;
}

void append_utf8(char32_t code_point, std::string& text) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (code_point >> shift & 0x3F)); };
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += {static_cast<char>(0xC0 | code_point >> 6), tail(0)};
  } else if (code_point < 0x10000) {
    text += {static_cast<char>(0xE0 | code_point >> 12), tail(6), tail(0)};
  } else {
    text += {static_cast<char>(0xF0 | code_point >> 18), tail(12), tail(6), tail(0)};
  }
}

std::string encode_utf8(std::u32string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (const char32_t code_point : text) append_utf8(code_point, bytes);
  return bytes;
}

std::string to_valid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = next_utf8(bytes.substr(at));
    text += step.kind == Utf8Step::kCharacter ? bytes.substr(at, step.length) : kReplacement;
    at += step.length;
  }
  return text;
}

std::string quote(std::string_view bytes) {
  std::string text = "\"";
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = next_utf8(bytes.substr(at));
    const std::string_view part = bytes.substr(at, step.length);
    at += step.length;
    const bool control = step.code_point < 0x20 || (step.code_point >= 0x7F && step.code_point < 0xA0);
    if (part == "\n") {
      text += "\\n";
    } else if (part == "\t") {
      text += "\\t";
    } else if (part == "\r") {
      text += "\\r";
    } else if (part == "\"" || part == "\\") {
      text += '\\';
      text += part;
    } else if (step.kind != Utf8Step::kCharacter || control) {
      for (const char byte : part)
        fmt::format_to(std::back_inserter(text), "\\x{:02x}", static_cast<uint8_t>(byte));
    } else {
      text += part;
    }
  }
  return text + "\"";
}

}  // namespace fulgur
