#include "runtime/prompt.h"

namespace fulgur {

std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, const Config& config, std::string_view text) {
  std::vector<int32_t> ids = tokenizer.encode(text);
  if (config.bos_token_id && (ids.empty() || ids.front() != *config.bos_token_id)) {
    ids.insert(ids.begin(), static_cast<int32_t>(*config.bos_token_id));
  }
  return ids;
}

}  // namespace fulgur
