#include "tokenizer/pipeline_file.h"

#include <fmt/format.h>

#include <algorithm>

namespace fulgur {
namespace {

/// The parts that `field` consists of: itself, or if it is a Sequence those of its list `key`, however
/// nested. (The depth of a file's nesting is limited when it is parsed.)
void flatten(const JsonField& field, const char* key, std::vector<JsonField>& parts) {
  if (field.at("type").text() != "Sequence") {
    parts.push_back(field);
    return;
  }
  field.allow_only({"type", key});
  for (const JsonField& part : field.at(key).elements()) flatten(part, key, parts);
}

std::vector<JsonField> flattened(const std::optional<JsonField>& field, const char* key) {
  std::vector<JsonField> parts;
  if (field) flatten(*field, key, parts);
  return parts;
}

/// Calls make(), which may throw an Error that knows no file, and adds where the trouble is.
template <typename Make>
auto at_field(const JsonField& field, const Make& make) {
  try {
    return make();
  } catch (const Error& error) {
    Problem problem = error.problems().front();
    problem.file = field.file();
    problem.tensor = field.path();
    problem.message = fmt::format("{}: {}.", field.path(), problem.message);
    problem.expected = "a regex of the kind that published tokenizers have";
    problem.found = brief(Json(field.text()));
    problem.todo = "use the tokenizer that belongs to this checkpoint";
    throw Error(std::move(problem));
  }
}

SplitRegex read_split_pattern(const JsonField& pattern) {
  pattern.allow_only({"Regex", "String"});
  if (pattern.object().size() != 1) pattern.bad("is no pattern.", R"({"Regex": ...} or {"String": ...})");
  const auto regex = pattern.find("Regex");
  const JsonField text = regex ? *regex : pattern.at("String");
  const std::string& value = text.text();
  return at_field(text, [&] { return SplitRegex(regex ? parse_regex(value) : literal_pattern(value)); });
}

PreTokenizer::Step read_split(const JsonField& field) {
  field.allow_only({"type", "pattern", "behavior", "invert"});
  const JsonField behavior = field.at("behavior");
  if (behavior.text() != "Isolated") behavior.unsupported("\"Isolated\"");
  static_cast<void>(
      field.at("invert").boolean());  // no difference to Isolated (src/tokenizer/pre_tokenizer.h)
  return Split{read_split_pattern(field.at("pattern"))};
}

PreTokenizer::Step read_digits(const JsonField& field) {
  field.allow_only({"type", "individual_digits"});
  return Digits{field.at("individual_digits").boolean()};
}

/// The settings that pre-tokenizer, post-processor and decoder share; each uses some.
struct ByteLevelSettings {
  bool add_prefix_space;
  bool trim_offsets;
  bool use_regex;
};

ByteLevelSettings read_byte_level(const JsonField& field) {
  field.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  const auto use_regex = field.find("use_regex");
  return {field.at("add_prefix_space").boolean(), field.at("trim_offsets").boolean(),
          !use_regex || use_regex->boolean()};
}

int32_t read_known_id(const JsonField& field, const Vocabulary& vocabulary) {
  const int32_t id = field.id();
  if (!vocabulary.has(id)) field.bad("is the id of no token.", "the id of a token");
  return id;
}

std::vector<int32_t> read_template(const JsonField& field, const Vocabulary& vocabulary) {
  field.allow_only({"type", "single", "pair", "special_tokens"});
  std::vector<int32_t> around;
  for (const JsonField& piece : field.at("single").elements()) {
    piece.allow_only({"SpecialToken", "Sequence"});
    if (piece.object().size() != 1)
      piece.bad("is no piece of a template.", R"({"SpecialToken": ...} or {"Sequence": ...})");
    if (const auto sequence = piece.find("Sequence")) {
      if (sequence->at("id").text() != "A") sequence->at("id").unsupported("\"A\", the only text there is");
      around.push_back(kTextItself);
      continue;
    }
    const JsonField name = piece.at("SpecialToken").at("id");
    const auto token = field.at("special_tokens").find(name.text());
    if (!token) name.bad(fmt::format("is not in {}.special_tokens.", field.path()), "one of them");
    for (const JsonField& id : token->at("ids").elements()) around.push_back(read_known_id(id, vocabulary));
  }
  return around;
}

}  // namespace

bool read_normalizer(const JsonField& top) {
  bool nfc = false;
  for (const JsonField& part : flattened(top.find("normalizer"), "normalizers")) {
    if (part.at("type").text() != "NFC") part.at("type").unsupported("\"NFC\", a Sequence of NFC, or null");
    part.allow_only({"type"});
    nfc = true;
  }
  return nfc;
}

PreTokenizer read_pre_tokenizer(const JsonField& top) {
  std::vector<PreTokenizer::Step> steps;
  bool spelled = false;  // ByteLevel has turned the text into the spelling of bytes
  for (const JsonField& part : flattened(top.find("pre_tokenizer"), "pretokenizers")) {
    const JsonField type = part.at("type");
    if (spelled) type.unsupported("nothing after ByteLevel");
    if (type.text() == "Split") {
      steps.push_back(read_split(part));
    } else if (type.text() == "Digits") {
      steps.push_back(read_digits(part));
    } else if (type.text() == "ByteLevel") {
      const ByteLevelSettings settings = read_byte_level(part);
      ByteLevel step{settings.add_prefix_space, std::nullopt};
      if (settings.use_regex) step.regex = PreTokenizer::byte_level_regex();
      steps.emplace_back(std::move(step));
      spelled = true;
    } else {
      type.unsupported("\"Split\", \"Digits\", \"ByteLevel\" or a Sequence of them");
    }
  }
  if (!spelled) {
    throw Error(Problem{.kind = ErrorKind::kUnsupported,
                        .file = top.file(),
                        .tensor = "pre_tokenizer",
                        .message = "pre_tokenizer has no ByteLevel: only byte-level BPE is supported.",
                        .expected = "ByteLevel, or a Sequence that ends in it",
                        .found = "no ByteLevel",
                        .todo = "use the tokenizer that belongs to this checkpoint"});
  }
  return PreTokenizer(std::move(steps));
}

std::vector<int32_t> read_post_processor(const JsonField& top, const Vocabulary& vocabulary) {
  std::optional<std::vector<int32_t>> around;
  for (const JsonField& part : flattened(top.find("post_processor"), "processors")) {
    const JsonField type = part.at("type");
    if (type.text() == "ByteLevel") {
      read_byte_level(part);  // it changes offsets only, and there are none here
    } else if (type.text() == "TemplateProcessing") {
      if (around) type.unsupported("one TemplateProcessing at most");
      around = read_template(part, vocabulary);
    } else {
      type.unsupported("\"TemplateProcessing\", \"ByteLevel\" or a Sequence of them");
    }
  }
  return around.value_or(std::vector<int32_t>{kTextItself});
}

void check_decoder(const JsonField& top) {
  const JsonField decoder = top.at("decoder");
  const std::vector<JsonField> parts = flattened(top.find("decoder"), "decoders");
  if (parts.size() != 1) decoder.unsupported("ByteLevel");
  if (parts.front().at("type").text() != "ByteLevel") parts.front().at("type").unsupported("\"ByteLevel\"");
  read_byte_level(parts.front());
}

}  // namespace fulgur
