#include "cli/eval_rows.h"

#include <fmt/format.h>

#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text_file.h"
#include "cli/token_lists.h"

namespace fulgur::cli {
namespace {

[[noreturn]] void refuse(const std::string& file, size_t line, const std::string& found) {
  throw Error(Problem{
      .kind = ErrorKind::kBadRequest,
      .file = fmt::format("{}:{}", file, line),
      .message = "This line can't be evaluated.",
      .expected =
          "an object with strings `prompt` and `answer`, or with an array `ids`; the same kind in every line",
      .found = found,
      .todo = "mend the line, or remove it"});
}

/// The ids of a row, all of the vocabulary: the last is compared with and never run, so the engine doesn't
/// see it.
std::vector<int32_t> read_ids(const Json& value, const std::string& file, size_t line, const Config& config) {
  std::vector<int32_t> ids = token_list(value, fmt::format("{}:{}", file, line));
  if (ids.size() < 2) refuse(file, line, "fewer than two ids: there is nothing to predict");
  if (static_cast<int64_t>(ids.size()) - 1 > config.max_position_embeddings) {
    refuse(file, line,
           fmt::format("{} ids, too many for the model's {} positions", ids.size(),
                       config.max_position_embeddings));
  }
  for (const int32_t id : ids) {
    if (id >= config.vocab_size) {
      refuse(file, line, fmt::format("token id {}, outside the vocabulary of {}", id, config.vocab_size));
    }
  }
  return ids;
}

/// The ids of a prompt, which must leave a position for an answer.
std::vector<int32_t> read_prompt(const Json& object, const std::string& file, size_t line,
                                 const Config& config, const Tokenizer* tokenizer) {
  for (const char* key : {"prompt", "answer"}) {
    if (!object.contains(key)) refuse(file, line, fmt::format("neither `ids` nor `{}`", key));
    if (!object[key].is_string()) refuse(file, line, fmt::format("`{}` that is no string", key));
  }
  if (tokenizer == nullptr) refuse(file, line, "a text prompt, but the model has no tokenizer.json");
  std::vector<int32_t> ids = tokenizer->encode(object["prompt"].get_ref<const std::string&>());
  if (ids.empty()) refuse(file, line, "an empty prompt");
  if (static_cast<int64_t>(ids.size()) >= config.max_position_embeddings) {
    refuse(file, line,
           fmt::format("a prompt of {} tokens, which leaves none of the model's {} positions for an answer",
                       ids.size(), config.max_position_embeddings));
  }
  return ids;
}

}  // namespace

Rows read_rows(const std::string& file, int64_t limit, const Config& config, const Tokenizer* tokenizer) {
  TextLines lines(file);
  Rows result;
  size_t line_number = 0;
  while (limit < 0 || std::ssize(result.rows) < limit) {
    const std::optional<std::string> line = lines.next();
    if (!line) break;
    ++line_number;
    if (line->find_first_not_of(" \t\r") == std::string::npos) continue;

    const Json object = parse_json(*line, ErrorKind::kBadRequest, fmt::format("{}:{}", file, line_number));
    if (!object.is_object()) refuse(file, line_number, "no JSON object");
    Row row{.id = object.value("id", Json(line_number - 1)), .has_solution = object.contains("solution")};
    const bool likelihood = object.contains("ids");
    if (likelihood && (object.contains("prompt") || object.contains("answer"))) {
      refuse(file, line_number, "`ids` beside `prompt` or `answer`");
    }
    if (!result.rows.empty() && likelihood != result.likelihood)
      refuse(file, line_number, "the other kind of row");
    result.likelihood = likelihood;
    if (likelihood) {
      row.ids = read_ids(object["ids"], file, line_number, config);
    } else {
      row.ids = read_prompt(object, file, line_number, config, tokenizer);
      row.answer = object["answer"].get<std::string>();
      result.prompt_bytes += object["prompt"].get_ref<const std::string&>().size();
    }
    result.rows.push_back(std::move(row));
  }
  if (result.rows.empty()) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .file = file,
                        .message = "There is nothing to evaluate in this file.",
                        .expected = "at least one line with a JSON object",
                        .found = line_number == 0 ? "an empty file" : "only blank lines",
                        .todo = "give a file of rows, as models/mini-v32/eval/arithmetic.jsonl"});
  }
  return result;
}

}  // namespace fulgur::cli
