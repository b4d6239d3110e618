#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "tokenizer/tokenizer.h"

namespace fulgur {

/// The ids of a raw prompt: control tokens in it are parsed, and BOS is put in front, if the model has one,
/// unless it is there.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const Config& config, std::string_view text);

}  // namespace fulgur
