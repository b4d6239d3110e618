#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fulgur {

/// What the first bytes of a text are.
struct Utf8Step {
  enum Kind {
    kCharacter,   // one whole code point
    kInvalid,     // bytes that no continuation makes valid: the longest part that begins like a character, or
                  // one byte
    kIncomplete,  // all that is left begins like a character
  };
  Kind kind{};
  size_t length = 0;  // bytes
  char32_t code_point = 0;
};

/// `text` must not be empty. Invalid parts are cut as the Unicode Standard (section 3.9, "maximal subparts")
/// and Rust's from_utf8_lossy cut them.
Utf8Step next_utf8(std::string_view text);

/// The byte offset of the first byte that is not valid UTF-8, or npos.
size_t find_invalid_utf8(std::string_view text);

/// `text` must be valid.
std::u32string decode_utf8(std::string_view text);

void append_utf8(char32_t code_point, std::string& text);
std::string encode_utf8(std::u32string_view text);

/// The bytes as text, each invalid part replaced by U+FFFD.
std::string to_valid_utf8(std::string_view bytes);

/// Between quotes, with control characters and bytes that are no UTF-8 escaped (\n, \x1b): for people and
/// messages.
std::string quote(std::string_view bytes);

}  // namespace fulgur
