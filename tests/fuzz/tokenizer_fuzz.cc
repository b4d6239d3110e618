// tokenizer.json, and behind a NUL tokenizer_config.json, and behind another a text to encode. The
// vocabulary's entries for the 256 bytes are written for short: `"@bytes":0`.

#include "base/json.h"
#include "refusal.h"
#include "support/checkpoint_files.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::fuzz {
namespace {

constexpr std::string_view kBytes = R"("@bytes":0)";

std::string expanded(std::string_view text) {
  static const std::string entries = [] {
    std::string all;
    for (int byte = 0; byte < 256; ++byte) {
      const std::string spelling = byte_alphabet::spell(static_cast<unsigned char>(byte));
      all += (all.empty() ? "" : ",") + Json(spelling).dump() + ":" + std::to_string(byte);
    }
    return all;
  }();
  std::string whole(text);
  if (const size_t at = whole.find(kBytes); at != std::string::npos)
    whole.replace(at, kBytes.size(), entries);
  return whole;
}

void use(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool parse_added_tokens : {false, true}) {
    const EncodeOptions options{.parse_added_tokens = parse_added_tokens, .add_special = true};
    const std::vector<int32_t> ids = tokenizer.encode(text, options);
    std::string streamed;
    IncrementalDecoder decoder(tokenizer);
    for (const int32_t id : ids) {
      check(0 <= id && id < tokenizer.num_ids(), "An id out of range");
      streamed += decoder.push(id);
    }
    streamed += decoder.finish();
    check(streamed == tokenizer.decode(ids), "Decoded in pieces, it is another text", streamed);
    (void)tokenizer.decode(ids, {.skip_special = true});
  }
}

void run(const uint8_t* data, size_t size) {
  static const TemporaryFolder folder;
  const std::vector<std::string_view> files = parts(data, size, 3);
  write_bytes(folder / "tokenizer.json", expanded(files[0]));
  if (files[1].empty()) {
    std::filesystem::remove(folder / "tokenizer_config.json");
  } else {
    write_bytes(folder / "tokenizer_config.json", files[1]);
  }
  try_out([&] { use(Tokenizer::load(folder.path()), files[2]); });
}

}  // namespace
}  // namespace fulgur::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fulgur::fuzz::run(data, size);
  return 0;
}
