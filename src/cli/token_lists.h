#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace fulgur::cli {

/// Token ids from a JSON array, which may be empty.
std::vector<int32_t> token_list(const Json& value, const std::string& name);
/// Token ids from JSON text: one array, or an array of arrays, none empty. `name` is how messages call the
/// source.
std::vector<std::vector<int32_t>> parse_token_lists(std::string_view json, const std::string& name);
/// Token ids from `1,2,3` or `[1, 2, 3]`.
std::vector<int32_t> parse_ids(std::string_view text, const std::string& name);

}  // namespace fulgur::cli
