#include "tokenizer/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "tokenizer/unicode.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

constexpr char32_t kFirstThatMayChange = 0x300;  // all text below it is its own NFC
constexpr size_t kLongestDecomposition = 4;  // code points of one character's full canonical decomposition

int combining_class(int32_t c) { return utf8proc_get_property(c)->combining_class; }

/// NFC of a run whose characters utf8proc and `tokenizers` know alike. Its own ordering of marks is quadratic
/// in the length of their run, so only decomposition and composition are utf8proc's.
void append_nfc(std::u32string_view run, std::string& out) {
  std::vector<int32_t> characters;
  characters.reserve(run.size() + kLongestDecomposition);
  for (const char32_t c : run) {
    std::array<int32_t, kLongestDecomposition> parts{};
    int boundary_class = 0;
    const auto count = utf8proc_decompose_char(static_cast<int32_t>(c), parts.data(), parts.size(),
                                               UTF8PROC_DECOMPOSE, &boundary_class);
    characters.insert(characters.end(), parts.begin(), parts.begin() + count);
  }
  for (auto begin = characters.begin(); begin != characters.end();) {
    const auto end = std::find_if(begin, characters.end(), [](int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end,
                     [](int32_t a, int32_t b) { return combining_class(a) < combining_class(b); });
    begin = end == characters.end() ? end : end + 1;
  }
  const auto length =
      utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  for (utf8proc_ssize_t i = 0; i < length; ++i)
    append_utf8(static_cast<char32_t>(characters[static_cast<size_t>(i)]), out);
}

}  // namespace

std::string to_nfc(std::string_view text) {
  const std::u32string characters = decode_utf8(text);
  if (std::all_of(characters.begin(), characters.end(), [](char32_t c) { return c < kFirstThatMayChange; })) {
    return std::string(text);
  }
  static const std::vector<bool> active = [] {
    std::vector<bool> known(kLastCodePoint + 1);
    for (const CodePointRange& range : unicode::nfc_active().ranges()) {
      std::fill(known.begin() + range.first, known.begin() + range.last + 1, true);
    }
    return known;
  }();
  std::string out;
  out.reserve(text.size());
  // A character that takes no part in normalization has combining class 0 and composes with nothing: what
  // lies on its two sides is normalized apart.
  const std::u32string_view all = characters;
  for (size_t begin = 0; begin < all.size();) {
    size_t end = begin;
    while (end < all.size() && active[all[end]]) ++end;
    append_nfc(all.substr(begin, end - begin), out);
    if (end < all.size()) append_utf8(all[end], out);
    begin = end + 1;
  }
  return out;
}

}  // namespace fulgur
