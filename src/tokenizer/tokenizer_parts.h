#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/byte_pair_encoder.h"
#include "tokenizer/pre_tokenizer.h"

namespace fulgur {

/// The tokens by id and by name.
struct Vocabulary {
  struct Token {
    bool present = false;
    bool special = false;
    bool added = false;  // no entry of model.vocab, so that no merges give it
    std::string bytes;   // what decoding gives
  };
  std::vector<Token> tokens;                       // by id
  std::unordered_map<std::string, int32_t> id_of;  // vocabulary entries by spelling, added tokens by text
  [[nodiscard]] bool has(int64_t id) const {
    return id >= 0 && id < static_cast<int64_t>(tokens.size()) && tokens[static_cast<size_t>(id)].present;
  }
};

/// Stands for the text in TokenizerParts::around.
constexpr int32_t kTextItself = -1;

/// What a tokenizer.json says, checked and ready for use.
struct TokenizerParts {
  Vocabulary vocabulary;
  AddedTokenFinder raw_tokens{{}};         // looked for in the text as it is
  bool nfc = false;                        // then the text between them is normalized
  AddedTokenFinder normalized_tokens{{}};  // and these are looked for
  PreTokenizer pre_tokenizer;
  BytePairEncoder encoder;
  std::vector<int32_t> around = {kTextItself};  // the post-processor's template
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
};

}  // namespace fulgur
