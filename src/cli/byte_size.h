#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace fulgur::cli {

/// A number of bytes, at least 1, with or without a unit: "500MB", "1.5GB" (powers of 1000), "4GiB", "64M"
/// (of 1024), in letters of either case; empty for anything else.
std::optional<uint64_t> parse_byte_size(std::string_view text);

}  // namespace fulgur::cli
