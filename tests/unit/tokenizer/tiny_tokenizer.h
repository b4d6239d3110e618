#pragma once

#include <string>

#include "base/json.h"

namespace fulgur {

/// A small valid tokenizer.json: the 256 bytes (ids 0..255 by value), "ab" (256), "abc" (257), the special
/// "<s>" (258) and "<u>" (259), which is not special. Tests change it.
Json tiny_tokenizer();

/// The tokenizer written to a folder of its own, with tokenizer_config.json unless that is null. The folder's
/// path.
std::string write_tokenizer(const Json& tokenizer, const Json& config = nullptr);

}  // namespace fulgur
