#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

namespace fulgur::cli {

/// "42:-1.5": a token id and what is added to its logit, a finite number. Empty: it isn't that.
std::optional<std::pair<int32_t, float>> parse_token_bias(std::string_view text);

}  // namespace fulgur::cli
