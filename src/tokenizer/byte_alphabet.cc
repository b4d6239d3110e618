#include "tokenizer/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "tokenizer/utf8.h"

namespace fulgur::byte_alphabet {
namespace {

constexpr int kNumBytes = 256;
constexpr char32_t kFirstOther = 0x100;  // spells the first byte that can't stand for itself

bool spells_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Table {
  std::array<char32_t, kNumBytes> character{};
  std::array<int16_t, size_t{2} * kNumBytes> byte{};  // by code point; -1: none
};

Table make_table() {
  Table table;
  table.byte.fill(-1);
  char32_t other = kFirstOther;
  for (int byte = 0; byte < kNumBytes; ++byte) {
    const char32_t c = spells_itself(byte) ? static_cast<char32_t>(byte) : other++;
    table.character[static_cast<size_t>(byte)] = c;
    table.byte[c] = static_cast<int16_t>(byte);
  }
  return table;
}

const Table& table() {
  static const Table made = make_table();
  return made;
}

}  // namespace

std::optional<std::string> bytes_of(std::string_view piece) {
  std::string bytes;
  for (const char32_t c : decode_utf8(piece)) {
    if (c >= table().byte.size() || table().byte[c] < 0) return std::nullopt;
    bytes += static_cast<char>(table().byte[c]);
  }
  return bytes;
}

std::string spell(unsigned char byte) {
  std::string text;
  append_utf8(table().character[byte], text);
  return text;
}

}  // namespace fulgur::byte_alphabet
