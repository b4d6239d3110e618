#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fulgur {

/// Byte-level BPE's spelling of bytes as visible characters, in which vocabulary and merges are written
/// (GPT-2's encoder.py, bytes_to_unicode): printable Latin-1 stands for itself, the other 68 bytes are U+0100
/// and up.
namespace byte_alphabet {

/// The bytes that `piece` spells, or none if a character in it spells no byte. `piece` must be valid UTF-8.
std::optional<std::string> bytes_of(std::string_view piece);

/// The character that spells the byte, in UTF-8.
std::string spell(unsigned char byte);

}  // namespace byte_alphabet
}  // namespace fulgur
