// fulgur eval: exact-match accuracy of greedy answers, and the likelihood of given text.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/text_file.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/progress.h"
#include "cli/streams.h"
#include "cli/token_lists.h"
#include "runtime/generate.h"
#include "runtime/session.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {
namespace {

/// New tokens of an answer where --max-tokens doesn't say.
constexpr int64_t kDefaultMaxTokens = 64;

struct Options {
  ModelOptions model;
  std::string file;
  int64_t limit = -1;
  std::optional<int64_t> max_tokens;
  bool json = false;
};

/// One row of the file: either a prompt with its answer, or ids.
struct Row {
  Json id;
  std::vector<int32_t> ids;
  std::string answer;
  bool has_solution = false;
};

struct Rows {
  bool likelihood = false;
  std::vector<Row> rows;
};

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

/// The ids of a row, all of the vocabulary: the last is compared with and never run, so the session doesn't
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
  const auto is_string = [&](const char* key) { return object.contains(key) && object[key].is_string(); };
  if (!is_string("prompt") || !is_string("answer")) {
    refuse(file, line, "neither `prompt` and `answer` nor `ids`");
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

Rows read_rows(const Options& options, const Config& config, const Tokenizer* tokenizer) {
  const std::string text = read_text_file(options.file);
  Rows result;
  size_t line_number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    if (options.limit >= 0 && static_cast<int64_t>(result.rows.size()) == options.limit) break;

    const Json object =
        parse_json(line, ErrorKind::kBadRequest, fmt::format("{}:{}", options.file, line_number));
    if (!object.is_object()) refuse(options.file, line_number, "no JSON object");
    Row row{.id = object.value("id", Json(line_number - 1)), .has_solution = object.contains("solution")};
    const bool likelihood = object.contains("ids");
    if (likelihood && (object.contains("prompt") || object.contains("answer"))) {
      refuse(options.file, line_number, "`ids` beside `prompt` or `answer`");
    }
    if (!result.rows.empty() && likelihood != result.likelihood)
      refuse(options.file, line_number, "the other kind of row");
    result.likelihood = likelihood;
    if (likelihood) {
      row.ids = read_ids(object["ids"], options.file, line_number, config);
    } else {
      row.ids = read_prompt(object, options.file, line_number, config, tokenizer);
      row.answer = object["answer"].get<std::string>();
    }
    result.rows.push_back(std::move(row));
  }
  if (result.rows.empty()) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .file = options.file,
                        .message = "There is nothing to evaluate in this file.",
                        .expected = "at least one line with a JSON object",
                        .found = text.empty() ? "an empty file" : "only blank lines",
                        .todo = "give a file of rows, as models/mini-v32/eval/arithmetic.jsonl"});
  }
  return result;
}

std::string strip(const std::string& text) {
  const char* space = " \t\r\n\f\v";
  const size_t first = text.find_first_not_of(space);
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(space) - first + 1);
}

bool is_correct(const std::string& output, const Row& row) {
  if (!row.has_solution) return strip(output) == row.answer;
  const size_t mark = output.rfind("#### ");
  return mark != std::string::npos && strip(output.substr(mark + 5)) == row.answer;
}

/// -ln p(target) under softmax(logits), in double.
double nats_of(const float* logits, int64_t vocab, int32_t target) {
  const double largest = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - largest);
  return std::log(sum) + largest - logits[target];
}

nlohmann::ordered_json answer_rows(Session& session, const Options& options, const Rows& rows,
                                   const Tokenizer& tokenizer) {
  nlohmann::ordered_json items = Json::array();
  size_t correct = 0;
  Progress progress("eval", "row");
  for (const Row& row : rows.rows) {
    const int sequence = session.open();
    const int64_t room = session.config().max_position_embeddings - static_cast<int64_t>(row.ids.size());
    GenerateResult result =
        generate(session, sequence,
                 {.prompt = row.ids,
                  .max_tokens = std::min(room, options.max_tokens.value_or(kDefaultMaxTokens)),
                  .stop_ids = session.config().eos_token_ids},
                 [](int32_t) { return true; });
    session.close(sequence);
    if (result.finish == FinishReason::kStop) result.ids.pop_back();
    // Rows that pad the vocabulary have no text.
    std::erase_if(result.ids, [&](int32_t id) { return id >= tokenizer.num_ids(); });
    const std::string output = tokenizer.decode(result.ids);
    const bool right = is_correct(output, row);
    correct += right ? 1 : 0;
    items.push_back({{"id", row.id}, {"output", output}, {"correct", right}});
    progress.update(items.size(), rows.rows.size());
  }
  const size_t total = rows.rows.size();
  return {{"accuracy", static_cast<double>(correct) / static_cast<double>(total)},
          {"correct", correct},
          {"total", total},
          {"items", std::move(items)}};
}

nlohmann::ordered_json score_rows(Session& session, const Rows& rows) {
  nlohmann::ordered_json items = Json::array();
  double nats = 0;
  size_t tokens = 0;
  Progress progress("eval", "row");
  for (const Row& row : rows.rows) {
    const int sequence = session.open();
    double row_nats = 0;
    const Work work{
        .sequence = sequence, .tokens = std::span(row.ids).first(row.ids.size() - 1), .logits = Wanted::kAll};
    session.run(std::span(&work, 1), [&](int, int64_t first, Matrix<const float> logits) {
      for (int64_t t = 0; t < logits.rows; ++t) {
        row_nats += nats_of(logits.row(t), logits.cols, row.ids[static_cast<size_t>(first + t + 1)]);
      }
    });
    session.close(sequence);
    if (!std::isfinite(row_nats)) {
      throw Error(Problem{
          .kind = ErrorKind::kBadValue,
          .message = fmt::format("The model's logits over row {} are NaN or infinite.", row.id.dump()),
          .expected = "finite logits",
          .found = fmt::format("{} nats", row_nats),
          .todo = "look for damaged weights with fulgur inspect DIR --verify"});
    }
    nats += row_nats;
    tokens += row.ids.size() - 1;
    items.push_back({{"id", row.id}, {"nats", row_nats}, {"tokens", row.ids.size() - 1}});
    progress.update(items.size(), rows.rows.size());
  }
  return {{"nats", nats},
          {"tokens", tokens},
          {"perplexity", std::exp(nats / static_cast<double>(tokens))},
          {"items", std::move(items)}};
}

int run_eval(const Options& options) {
  FoundModel found = find_model(options.model);
  const std::optional<Tokenizer> tokenizer = open_tokenizer(found);
  const Rows rows = read_rows(options, found.config(), tokenizer ? &*tokenizer : nullptr);
  if (rows.likelihood && options.max_tokens) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .file = options.file,
                        .message = "--max-tokens is for rows with `prompt` and `answer`.",
                        .found = "rows with `ids`, which are scored whole",
                        .todo = "leave --max-tokens away"});
  }
  int64_t longest = 0;
  for (const Row& row : rows.rows) longest = std::max(longest, static_cast<int64_t>(row.ids.size()));
  if (!rows.likelihood) longest += options.max_tokens.value_or(kDefaultMaxTokens);
  const int64_t cache_tokens = std::min(longest, found.config().max_position_embeddings);
  const OpenedModel model = open_model(std::move(found), options.model, cache_tokens);
  Session session(model.loaded, session_options(options.model, model));

  const nlohmann::ordered_json result =
      rows.likelihood ? score_rows(session, rows) : answer_rows(session, options, rows, *tokenizer);
  if (options.json) {
    print_out("{}\n", result.dump());
  } else if (rows.likelihood) {
    print_out("{:.4f} nats over {} tokens in {} rows, perplexity {:.4f}\n", result["nats"].get<double>(),
              result["tokens"].get<size_t>(), rows.rows.size(), result["perplexity"].get<double>());
  } else {
    for (const auto& item : result["items"]) {
      if (!item["correct"].get<bool>())
        print_out("wrong  {}  {}\n", item["id"].dump(), item["output"].dump());
    }
    print_out("{} of {} right ({:.1f}%)\n", result["correct"].get<size_t>(), result["total"].get<size_t>(),
              100 * result["accuracy"].get<double>());
  }
  if (options.model.profile) print_profile(session);
  return kExitDone;
}

}  // namespace

std::function<int()> declare_eval(Arguments& args) {
  auto options = std::make_shared<Options>();
  args.add_option("FILE", options->file, "JSON lines: rows with prompt and answer, or with ids")
      .required()
      .type_name("");
  args.add_option("--limit", options->limit, "Only the first N rows")
      .integer_range(1, int64_t{1} << 40)
      .type_name("N");
  args.add_option("--max-tokens", options->max_tokens, "New tokens of an answer (default: 64)")
      .integer_range(1, int64_t{1} << 24)
      .type_name("N");
  args.add_flag("--json", options->json, "Print one JSON object");
  add_model_options(args, options->model);
  args.footer(
      "Examples:\n"
      "  fulgur eval models/mini-v32/eval/arithmetic.jsonl --limit 20\n"
      "  fulgur eval models/mini-v32/eval/kjv.jsonl --precision full --json");
  return [options] { return run_eval(*options); };
}

}  // namespace fulgur::cli
