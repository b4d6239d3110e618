#include "tokenizer/tokenizer_file.h"

#include <fmt/format.h>

#include <unordered_set>

#include "base/json.h"
#include "tokenizer/byte_alphabet.h"
#include "tokenizer/json_field.h"
#include "tokenizer/nfc.h"
#include "tokenizer/pipeline_file.h"
#include "tokenizer/utf8.h"

namespace fulgur {
namespace {

void add_token(Vocabulary& vocabulary, int32_t id, const std::string& name, std::string bytes, bool special) {
  const auto index = static_cast<size_t>(id);
  if (vocabulary.tokens.size() <= index) vocabulary.tokens.resize(index + 1);
  vocabulary.tokens[index] = {.present = true, .special = special, .bytes = std::move(bytes)};
  vocabulary.id_of[name] = id;
}

/// What the ByteLevel decoder makes of a token: the bytes it spells, or the name itself if that spells none.
std::string decoded(const std::string& name) { return byte_alphabet::bytes_of(name).value_or(name); }

// Vocabulary and merges have some 10^5 entries each, so a JsonField, which knows its path, is made only of a
// bad one.

void read_vocabulary(const JsonField& vocab, Vocabulary& vocabulary) {
  const Json& entries = vocab.object();
  vocabulary.id_of.reserve(entries.size());
  for (auto entry = entries.begin(); entry != entries.end(); ++entry) {
    const std::optional<int32_t> id = as_token_id(*entry);
    if (!id || vocabulary.has(*id)) {
      const JsonField field(*entry, fmt::format("{}[{}]", vocab.path(), quote(entry.key())), vocab.file());
      field.bad(id ? "has an id that another entry has too." : "is not a token id.",
                described_ids() + " of its own");
    }
    add_token(vocabulary, *id, entry.key(), decoded(entry.key()), false);
  }
}

std::array<int32_t, 256> read_byte_ids(const JsonField& vocab, const Vocabulary& vocabulary) {
  std::array<int32_t, 256> ids{};
  for (size_t byte = 0; byte < ids.size(); ++byte) {
    const std::string spelling = byte_alphabet::spell(static_cast<unsigned char>(byte));
    const auto known = vocabulary.id_of.find(spelling);
    if (known == vocabulary.id_of.end()) {
      throw Error(Problem{.kind = ErrorKind::kBadTokenizer,
                          .file = vocab.file(),
                          .tensor = vocab.path(),
                          .message = fmt::format("{} has no entry for the byte {:#04x}: text would be lost.",
                                                 vocab.path(), byte),
                          .expected = fmt::format("an entry {} and one for each other byte (byte-level BPE)",
                                                  quote(spelling)),
                          .found = "no such entry",
                          .todo = "use the tokenizer that belongs to this checkpoint"});
    }
    ids[byte] = known->second;
  }
  return ids;
}

/// The two tokens of a merge, in either spelling: "a b" or ["a", "b"]. None if it is neither.
std::optional<std::pair<std::string, std::string>> names_of_merge(const Json& merge) {
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return std::nullopt;
    return std::pair(text.substr(0, space), text.substr(space + 1));
  }
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string())
    return std::nullopt;
  return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
}

std::vector<Merge> read_merges(const JsonField& field, const Vocabulary& vocabulary) {
  const Json& all = field.array();
  std::vector<Merge> merges;
  merges.reserve(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const auto refuse = [&](std::string_view what, std::string expected) {
      JsonField(all[i], fmt::format("{}[{}]", field.path(), i), field.file()).bad(what, std::move(expected));
    };
    if (all[i].is_string() != all[0].is_string())
      refuse("is spelled unlike the first merge.", "one spelling");
    // The first line of GPT-2's merges.txt.
    if (all[i].is_string() && all[i].get_ref<const std::string&>().starts_with("#version")) continue;
    const auto names = names_of_merge(all[i]);
    if (!names) refuse("is no merge.", R"(two tokens, as "a b" or ["a", "b"])");
    const auto id_of = [&](const std::string& name) {
      const auto known = vocabulary.id_of.find(name);
      if (known == vocabulary.id_of.end()) {
        refuse(fmt::format("needs the token {}, which is not in model.vocab.", quote(name)),
               "two tokens of model.vocab that together are a third");
      }
      return known->second;
    };
    merges.push_back({id_of(names->first), id_of(names->second), id_of(names->first + names->second)});
  }
  return merges;
}

AddedToken read_added_token(const JsonField& field) {
  field.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token{.id = field.at("id").id(),
                   .content = field.at("content").text(),
                   .single_word = field.at("single_word").boolean(),
                   .lstrip = field.at("lstrip").boolean(),
                   .rstrip = field.at("rstrip").boolean(),
                   .normalized = field.at("normalized").boolean(),
                   .special = field.at("special").boolean()};
  if (token.content.empty()) field.at("content").bad("is empty.", "a text");
  return token;
}

/// Adds `added_tokens` to the vocabulary. The `tokenizers` package goes by their order and the vocabulary
/// alone, so a file whose ids say something else means two things at once.
void read_added_tokens(const JsonField& field, TokenizerParts& parts) {
  std::vector<std::pair<std::string, AddedToken>> raw;
  std::vector<std::pair<std::string, AddedToken>> normalized;
  std::unordered_set<std::string> contents;
  std::unordered_set<std::string> normal_forms;
  auto next_id = static_cast<int32_t>(parts.vocabulary.id_of.size());
  for (const JsonField& entry : field.elements()) {
    const AddedToken token = read_added_token(entry);
    if (!contents.insert(token.content).second)
      entry.at("content").bad("is there twice.", "each content once");
    const auto known = parts.vocabulary.id_of.find(token.content);
    const int32_t id = known != parts.vocabulary.id_of.end() ? known->second : next_id++;
    if (token.id != id) {
      entry.at("id").bad(
          fmt::format("contradicts the vocabulary: the token {} has id {}.", quote(token.content), id),
          "the id of model.vocab, or the next free one");
    }
    const bool added = known == parts.vocabulary.id_of.end();
    if (added && parts.vocabulary.has(id)) {
      entry.at("id").bad("is the id of an entry of model.vocab.", "an id that no entry has");
    }
    const std::string found_by = token.normalized && parts.nfc ? to_nfc(token.content) : token.content;
    add_token(parts.vocabulary, id, token.content, decoded(token.content), token.special);
    parts.vocabulary.tokens[static_cast<size_t>(id)].added = added;
    if (token.normalized && !normal_forms.insert(found_by).second) {
      entry.at("content").bad("has the same normal form as another added token.", "a normal form of its own");
    }
    (token.normalized ? normalized : raw).emplace_back(found_by, token);
  }
  parts.raw_tokens = AddedTokenFinder(raw);
  parts.normalized_tokens = AddedTokenFinder(normalized);
}

void check_model(const JsonField& model) {
  model.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                    "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (model.at("type").text() != "BPE") model.at("type").unsupported("\"BPE\"");
  const auto dropout = model.find("dropout");
  if (dropout && !dropout->is_zero()) dropout->unsupported("null");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model.find(key);
    if (affix && !affix->text().empty()) affix->unsupported("null");
  }
  // With an entry for every byte, no text is unknown: these three can have no effect, but must be
  // well-formed.
  if (const auto unknown = model.find("unk_token")) static_cast<void>(unknown->text());
  for (const char* key : {"fuse_unk", "byte_fallback"}) {
    if (const auto flag = model.find(key)) static_cast<void>(flag->boolean());
  }
}

std::unordered_map<std::string, WholeWord> whole_words(const JsonField& vocab,
                                                       const JsonField& added_tokens) {
  std::unordered_set<std::string> added;
  for (const JsonField& entry : added_tokens.elements()) added.insert(entry.at("content").text());
  std::unordered_map<std::string, WholeWord> words;
  for (const auto& [name, id] : vocab.object().items()) {
    if (auto bytes = byte_alphabet::bytes_of(name))
      words[*std::move(bytes)] = {id.get<int32_t>(), added.contains(name)};
  }
  return words;
}

std::optional<int32_t> read_named_token(const JsonField& config, const char* key,
                                        const Vocabulary& vocabulary) {
  const auto field = config.find(key);
  if (!field) return std::nullopt;
  // A string, or an AddedToken written out.
  const JsonField name = field->is_text() ? *field : field->at("content");
  const auto known = vocabulary.id_of.find(name.text());
  if (known == vocabulary.id_of.end()) name.bad("is not a token of tokenizer.json.", "one of its tokens");
  return known->second;
}

}  // namespace

TokenizerParts read_tokenizer(const Json& json, const std::string& file) {
  const JsonField top(json, "", file);
  top.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                  "post_processor", "decoder", "model"});
  if (const auto version = top.find("version"); version && version->text() != "1.0")
    version->unsupported("\"1.0\"");
  for (const char* key : {"truncation", "padding"}) {
    if (const auto field = top.find(key)) field->unsupported("null");
  }
  TokenizerParts parts;
  const JsonField model = top.at("model");
  check_model(model);
  read_vocabulary(model.at("vocab"), parts.vocabulary);
  const std::array<int32_t, 256> byte_ids = read_byte_ids(model.at("vocab"), parts.vocabulary);
  const std::vector<Merge> merges = read_merges(model.at("merges"), parts.vocabulary);
  const auto ignore_merges = model.find("ignore_merges");
  const bool takes_whole_words = ignore_merges && ignore_merges->boolean();

  parts.nfc = read_normalizer(top);
  const JsonField added_tokens = top.at("added_tokens");
  read_added_tokens(added_tokens, parts);
  parts.encoder = BytePairEncoder(byte_ids, merges,
                                  takes_whole_words ? whole_words(model.at("vocab"), added_tokens)
                                                    : std::unordered_map<std::string, WholeWord>());
  parts.pre_tokenizer = read_pre_tokenizer(top);
  parts.around = read_post_processor(top, parts.vocabulary);
  check_decoder(top);
  return parts;
}

void read_tokenizer_config(const Json& json, const std::string& file, TokenizerParts& parts) {
  const JsonField top(json, "", file);
  parts.bos = read_named_token(top, "bos_token", parts.vocabulary);
  parts.eos = read_named_token(top, "eos_token", parts.vocabulary);
}

}  // namespace fulgur
