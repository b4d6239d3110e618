#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur {

struct TokenizerParts;

struct EncodeOptions {
  /// Every entry of `added_tokens` found in the text becomes its id. Without it they all stay text: what a
  /// user types.
  bool parse_added_tokens = true;
  /// Puts around the text what the file's post-processor says, such as BOS.
  bool add_special = false;
  /// Encoding ends when there are more ids than this; what is behind them is left out.
  size_t most_ids = std::numeric_limits<size_t>::max();
};

struct DecodeOptions {
  bool skip_special = false;  // leaves out tokens that tokenizer.json marks as special
};

/// The byte-level BPE tokenizer of a Hugging Face tokenizer.json: text to ids and back, equal to the
/// `tokenizers` package on every text. Immutable, so that threads may share it.
class Tokenizer {
 public:
  /// Reads a tokenizer.json, or a folder's tokenizer.json and, for bos() and eos(), its
  /// tokenizer_config.json. Throws `io_error`, `bad_tokenizer` for what is malformed, `unsupported` for what
  /// this class can't do, by name.
  static Tokenizer load(const std::filesystem::path& path);
  /// Of a checkpoint's folder, which may be without one: nothing where no tokenizer.json is in it.
  static std::optional<Tokenizer> load_if_present(const std::filesystem::path& folder);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Throws `bad_request` if `text` is not valid UTF-8; the message names the byte.
  [[nodiscard]] std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;

  /// The ids' bytes as text; bytes that are no UTF-8 become U+FFFD. Throws `bad_request` for an id that isn't
  /// there.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids, DecodeOptions options = {}) const;

  /// The bytes that one id stands for: perhaps a part of a character. Throws `bad_request` for an id that
  /// isn't there.
  [[nodiscard]] const std::string& piece(int32_t id) const;
  [[nodiscard]] bool is_special(int32_t id) const;

  /// The id of an added token by its text, or of a vocabulary entry by its spelling there.
  [[nodiscard]] std::optional<int32_t> token_id(std::string_view name) const;
  [[nodiscard]] std::optional<int32_t> bos() const;
  [[nodiscard]] std::optional<int32_t> eos() const;
  /// A text of more bytes takes more ids than so many, without `parse_added_tokens`: it needs not be encoded
  /// to be too long.
  [[nodiscard]] size_t most_bytes(size_t ids) const;
  /// One more than the highest id.
  [[nodiscard]] int32_t num_ids() const;

 private:
  explicit Tokenizer(std::unique_ptr<TokenizerParts> parts);
  std::unique_ptr<const TokenizerParts> parts_;
};

/// Decodes as ids arrive: gives out whole characters as soon as they are certain. All that push() and
/// finish() return, joined, is what decode() gives for all the ids.
class IncrementalDecoder {
 public:
  explicit IncrementalDecoder(const Tokenizer& tokenizer, DecodeOptions options = {})
      : tokenizer_(tokenizer), options_(options) {}

  [[nodiscard]] std::string push(int32_t id);
  /// What was held back; after it, a new text begins.
  [[nodiscard]] std::string finish();

 private:
  const Tokenizer& tokenizer_;
  DecodeOptions options_;
  std::string held_;  // the begin of a character
};

}  // namespace fulgur
