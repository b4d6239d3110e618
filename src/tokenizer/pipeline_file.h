#pragma once

#include "tokenizer/json_field.h"
#include "tokenizer/tokenizer_parts.h"

namespace fulgur {

// The parts of a tokenizer.json around its model, from the file's top level. All throw `bad_tokenizer` for
// what is malformed and `unsupported` for a kind or setting that isn't handled.

/// Whether text is normalized to NFC; else it stays as it is.
bool read_normalizer(const JsonField& top);

PreTokenizer read_pre_tokenizer(const JsonField& top);

/// TokenizerParts::around.
std::vector<int32_t> read_post_processor(const JsonField& top, const Vocabulary& vocabulary);

/// Accepts ByteLevel alone.
void check_decoder(const JsonField& top);

}  // namespace fulgur
