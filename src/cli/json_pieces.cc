#include "cli/json_pieces.h"

#include <algorithm>
#include <string>

#include "base/json.h"
#include "cli/streams.h"

namespace fulgur::cli {
namespace {

constexpr size_t kPieceBytes = 4096;

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

}  // namespace

void write_json_ids(std::span<const int32_t> ids) {
  const char* before = "[";
  for (const int32_t id : ids) {
    print_out("{}{}", before, id);
    before = ",";
  }
  write_out(ids.empty() ? "[]" : "]");
}

void write_json_text(std::string_view text) {
  write_out("\"");
  while (!text.empty()) {
    size_t size = std::min(text.size(), kPieceBytes);
    while (size < text.size() && is_continuation(text[size])) --size;  // no character in two pieces
    const std::string piece = Json(text.substr(0, size)).dump();
    write_out(std::string_view(piece).substr(1, piece.size() - 2));
    text.remove_prefix(size);
  }
  write_out("\"");
}

}  // namespace fulgur::cli
