#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace fulgur::cli {

// Long values of JSON, to stdout piece by piece: what a document of them takes is in no plan of the memory.

/// `[1,2,3]`.
void write_json_ids(std::span<const int32_t> ids);
/// A string with its quotes, of `text` in valid UTF-8.
void write_json_text(std::string_view text);

}  // namespace fulgur::cli
