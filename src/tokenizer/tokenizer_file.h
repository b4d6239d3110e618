#pragma once

#include <string>

#include "base/json.h"
#include "tokenizer/tokenizer_parts.h"

namespace fulgur {

/// Checks and takes apart a tokenizer.json; `file` is its name in messages. Throws `bad_tokenizer` and
/// `unsupported`.
TokenizerParts read_tokenizer(const Json& json, const std::string& file);

/// Takes the begin and end token from a tokenizer_config.json.
void read_tokenizer_config(const Json& json, const std::string& file, TokenizerParts& parts);

}  // namespace fulgur
