#include "tokenizer/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "tokenizer/nfc.h"
#include "tokenizer/tokenizer_file.h"
#include "tokenizer/tokenizer_parts.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

constexpr size_t kLongestRememberedWord = 64;  // bytes: longer ones seldom come back
constexpr size_t kMostRememberedWords = 1 << 16;

/// Encodes the words of one text; a word that was there before is copied from the ids it gave.
class WordEncoder {
 public:
  WordEncoder(const BytePairEncoder& encoder, const EncodeOptions& options, std::vector<int32_t>& ids)
      : encoder_(encoder), options_(options), ids_(ids) {}

  [[nodiscard]] bool full() const { return ids_.size() > options_.most_ids; }

  void encode(const std::string& word) {
    const auto known = seen_.find(word);
    if (known != seen_.end()) {
      for (size_t i = 0; i < known->second.count; ++i) ids_.push_back(ids_[known->second.begin + i]);
      return;
    }
    const size_t begin = ids_.size();
    encoder_.encode(word, options_.parse_added_tokens, ids_);
    if (word.size() <= kLongestRememberedWord && seen_.size() < kMostRememberedWords) {
      seen_.emplace(word, Run{begin, ids_.size() - begin});
    }
  }

 private:
  struct Run {
    size_t begin;
    size_t count;
  };
  const BytePairEncoder& encoder_;
  const EncodeOptions& options_;
  std::vector<int32_t>& ids_;
  std::unordered_map<std::string, Run> seen_;
};

std::vector<AddedTokenSplit> split(const AddedTokenFinder& finder, std::string_view text,
                                   bool parse_added_tokens) {
  if (parse_added_tokens) return finder.split(text);
  if (text.empty()) return {};
  return {{text, std::nullopt}};
}

void encode_text(const TokenizerParts& parts, std::string_view text, WordEncoder& words) {
  if (words.full()) return;
  std::u32string characters = decode_utf8(text);
  std::string word;
  for (const Span& span : parts.pre_tokenizer.split(characters)) {
    word.clear();
    for (size_t i = span.begin; i < span.end; ++i) append_utf8(characters[i], word);
    words.encode(word);
    if (words.full()) return;
  }
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<TokenizerParts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  std::error_code none;  // what can't be looked at is no folder; reading it says why
  const bool folder = std::filesystem::is_directory(path, none);
  const std::filesystem::path file = folder ? path / "tokenizer.json" : path;
  auto parts = std::make_unique<TokenizerParts>(
      read_tokenizer(read_json(file, ErrorKind::kBadTokenizer), file.filename().string()));
  const std::filesystem::path config = path / "tokenizer_config.json";
  if (folder &&
      std::filesystem::symlink_status(config, none).type() != std::filesystem::file_type::not_found) {
    read_tokenizer_config(read_json(config, ErrorKind::kBadTokenizer), config.filename().string(), *parts);
  }
  return Tokenizer(std::move(parts));
}

std::optional<Tokenizer> Tokenizer::load_if_present(const std::filesystem::path& folder) {
  std::error_code error;  // what is there and can't be looked at is for load() to refuse
  const auto status = std::filesystem::symlink_status(folder / "tokenizer.json", error);
  if (status.type() == std::filesystem::file_type::not_found) return std::nullopt;
  return load(folder);
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (const size_t at = find_invalid_utf8(text); at != std::string_view::npos) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .message = fmt::format("The text is not valid UTF-8 at byte {} ({:#04x}).", at,
                                               static_cast<uint8_t>(text[at])),
                        .todo = "convert it to UTF-8 first"});
  }
  const bool added = options.parse_added_tokens;
  std::vector<int32_t> ids;
  WordEncoder words(parts_->encoder, options, ids);
  for (const int32_t around : options.add_special ? parts_->around : std::vector<int32_t>{kTextItself}) {
    if (around != kTextItself) {
      ids.push_back(around);
      continue;
    }
    for (const AddedTokenSplit& part : split(parts_->raw_tokens, text, added)) {
      if (part.id) {
        ids.push_back(*part.id);
        continue;
      }
      const std::string normalized = parts_->nfc ? to_nfc(part.text) : std::string();
      for (const AddedTokenSplit& inner :
           split(parts_->normalized_tokens, parts_->nfc ? normalized : part.text, added)) {
        if (inner.id) {
          ids.push_back(*inner.id);
        } else {
          encode_text(*parts_, inner.text, words);
        }
      }
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, DecodeOptions options) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const std::string& part = piece(id);
    if (!options.skip_special || !is_special(id)) bytes += part;
  }
  return to_valid_utf8(bytes);
}

const std::string& Tokenizer::piece(int32_t id) const {
  if (!parts_->vocabulary.has(id)) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .message = fmt::format("The token id {} is not in the tokenizer's vocabulary.", id),
                        .expected = fmt::format("ids from 0 to {}", num_ids() - 1)});
  }
  return parts_->vocabulary.tokens[static_cast<size_t>(id)].bytes;
}

bool Tokenizer::is_special(int32_t id) const {
  return parts_->vocabulary.has(id) && parts_->vocabulary.tokens[static_cast<size_t>(id)].special;
}

std::optional<int32_t> Tokenizer::token_id(std::string_view name) const {
  const auto known = parts_->vocabulary.id_of.find(std::string(name));
  if (known == parts_->vocabulary.id_of.end()) return std::nullopt;
  return known->second;
}

std::optional<int32_t> Tokenizer::bos() const { return parts_->bos; }
std::optional<int32_t> Tokenizer::eos() const { return parts_->eos; }
int32_t Tokenizer::num_ids() const { return static_cast<int32_t>(parts_->vocabulary.tokens.size()); }

size_t Tokenizer::most_bytes(size_t ids) const {
  constexpr size_t kMostComposed =
      3;  // NFC makes one character of a Hangul syllable's three of as many bytes
  size_t longest = 1;
  for (const Vocabulary::Token& token : parts_->vocabulary.tokens) {
    if (!token.special && !token.added) longest = std::max(longest, token.bytes.size());
  }
  return ids * longest * (parts_->nfc ? kMostComposed : 1);
}

std::string IncrementalDecoder::push(int32_t id) {
  const std::string& piece = tokenizer_.piece(id);
  if (options_.skip_special && tokenizer_.is_special(id)) return "";
  held_ += piece;
  // Only the begin of a character at the very end is uncertain.
  size_t certain = 0;
  while (certain < held_.size()) {
    const Utf8Step step = next_utf8(std::string_view(held_).substr(certain));
    if (step.kind == Utf8Step::kIncomplete) break;
    certain += step.length;
  }
  std::string text = to_valid_utf8(std::string_view(held_).substr(0, certain));
  held_.erase(0, certain);
  return text;
}

std::string IncrementalDecoder::finish() { return to_valid_utf8(std::exchange(held_, "")); }

}  // namespace fulgur
