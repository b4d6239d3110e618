// fulgur eval: exact-match accuracy of greedy answers, and the likelihood of given text.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
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
#include "fulgur/engine.h"
#include "runtime/chunk_run.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {
namespace {

/// New tokens of an answer where --max-tokens doesn't say.
constexpr int64_t kDefaultMaxTokens = 64;
constexpr int64_t kMostCacheTokens = 32768;

struct Options {
  ModelOptions model;
  std::string file;
  int64_t limit = -1;
  std::optional<int64_t> max_tokens;
  int64_t batch = 16;
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

  /// New tokens that a row may ask for.
  [[nodiscard]] int64_t new_tokens(const Row& row, int64_t most, const Config& config) const {
    if (likelihood) return 0;
    return std::min(most, config.max_position_embeddings - static_cast<int64_t>(row.ids.size()));
  }
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

Rows read_rows(const Options& options, const Config& config, const Tokenizer* tokenizer) {
  const std::string text = read_text_file(options.file);
  Rows result;
  size_t line_number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string_view line = take_line(rest);
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

/// Calls done(i, completion) for each row in order, with `batch` of them on their way at once. The first
/// begin together, so that it does not depend on chance what memory their step takes.
template <typename MakeRequest, typename Done>
void for_each_row(Engine& engine, size_t num_rows, int64_t batch, const MakeRequest& request,
                  const Done& done) {
  Progress progress("eval", "row");
  size_t next = 0;
  std::vector<Request> first;
  for (; next < num_rows && static_cast<int64_t>(next) < batch; ++next) first.push_back(request(next));
  std::vector<Generation> begun = engine.submit_all(std::move(first));
  std::deque<Generation> running(begun.begin(), begun.end());
  for (size_t ended = 0; ended < num_rows; ++ended) {
    if (next < num_rows && static_cast<int64_t>(running.size()) < batch) {
      running.push_back(engine.submit(request(next++)));
    }
    done(ended, running.front().wait());
    running.pop_front();
    progress.update(ended + 1, num_rows);
  }
}

nlohmann::ordered_json answer_rows(Engine& engine, const Config& config, const Options& options,
                                   const Rows& rows) {
  nlohmann::ordered_json items = Json::array();
  size_t correct = 0;
  const auto request = [&](size_t i) {
    const Row& row = rows.rows[i];
    return Request{
        .prompt = row.ids,
        .max_tokens = rows.new_tokens(row, options.max_tokens.value_or(kDefaultMaxTokens), config)};
  };
  for_each_row(engine, rows.rows.size(), options.batch, request, [&](size_t i, const Completion& answer) {
    const Row& row = rows.rows[i];
    const bool right = is_correct(answer.text, row);
    correct += right ? 1 : 0;
    items.push_back({{"id", row.id}, {"output", answer.text}, {"correct", right}});
  });
  const size_t total = rows.rows.size();
  return {{"accuracy", static_cast<double>(correct) / static_cast<double>(total)},
          {"correct", correct},
          {"total", total},
          {"items", std::move(items)}};
}

nlohmann::ordered_json score_rows(Engine& engine, const Config& config, const Options& options,
                                  const Rows& rows) {
  nlohmann::ordered_json items = Json::array();
  double nats = 0;
  size_t tokens = 0;
  // Each written by the engine's thread until its row has ended; it may outlive this function if a row fails.
  const auto of_row = std::make_shared<std::vector<double>>(rows.rows.size(), 0);
  const auto request = [&](size_t i) {
    const Row& row = rows.rows[i];
    return Request{
        .prompt = {row.ids.begin(), row.ids.end() - 1},
        .max_tokens = 0,
        .on_prompt_logits = [&rows, &config, of_row, i](int64_t first, int64_t count, const float* logits) {
          for (int64_t t = 0; t < count; ++t) {
            (*of_row)[i] += nats_of(logits + t * config.vocab_size, config.vocab_size,
                                    rows.rows[i].ids[static_cast<size_t>(first + t + 1)]);
          }
        }};
  };
  for_each_row(engine, rows.rows.size(), options.batch, request, [&](size_t i, const Completion&) {
    const Row& row = rows.rows[i];
    const double row_nats = (*of_row)[i];
    if (!std::isfinite(row_nats)) {
      throw Error(Problem{
          .kind = ErrorKind::kBadValue,
          .message = fmt::format("The model's logits over row {} are NaN or infinite.", row.id.dump()),
          .expected = "finite logits",
          .found = fmt::format("{} nats", row_nats),
          .todo = kDamagedModel});
    }
    nats += row_nats;
    tokens += row.ids.size() - 1;
    items.push_back({{"id", row.id}, {"nats", row_nats}, {"tokens", row.ids.size() - 1}});
  });
  return {{"nats", nats},
          {"tokens", tokens},
          {"perplexity", std::exp(nats / static_cast<double>(tokens))},
          {"items", std::move(items)}};
}

/// What the rows take: caches for any `batch` that follow one another, but no more than kMostCacheTokens
/// unless one row needs them. With fewer than a batch needs, fewer run at once.
RunSize size_of(const Rows& rows, const Options& options, const Config& config) {
  RunSize size{
      .sequences = std::min({options.batch, std::ssize(rows.rows), int64_t{SchedulerOptions{}.max_running}}),
      .hands_out_logits = rows.likelihood};
  if (rows.likelihood) {  // a row ends with its prompt, so there are no more than a step has room for
    const auto shortest = std::ranges::min(rows.rows, {}, [](const Row& row) { return row.ids.size(); });
    size.sequences = std::min(size.sequences, kStepTokens / (std::ssize(shortest.ids) - 1) + 2);
  }
  int64_t prompts = 0;  // of those at once, as what follows
  int64_t cached = 0;
  int64_t pages = 0;
  std::deque<std::pair<int64_t, int64_t>> at_once;
  for (const Row& row : rows.rows) {
    const int64_t prompt = std::ssize(row.ids) - (rows.likelihood ? 1 : 0);
    const int64_t whole =
        prompt + rows.new_tokens(row, options.max_tokens.value_or(kDefaultMaxTokens), config);
    size.context = std::max(size.context, whole);
    size.prompt = std::max(size.prompt, prompt);
    if (std::ssize(at_once) == size.sequences) {
      prompts -= at_once.front().first;
      cached -= at_once.front().second;
      pages -= pages_for(at_once.front().second);
      at_once.pop_front();
    }
    at_once.emplace_back(prompt, whole);
    prompts += prompt;
    cached += whole;
    pages += pages_for(whole);
    size.prompts = std::max(size.prompts, prompts);
    size.cached = std::max(size.cached, cached);
    size.cache_tokens = std::max(size.cache_tokens, pages * kPageTokens);
  }
  // A page that was a row's last is filled when it becomes a middle one of a later row.
  if (std::ssize(rows.rows) > size.sequences && size.context > kPageTokens) size.cached = 0;
  if (size.cache_tokens > kMostCacheTokens) size.cached = 0;
  size.cache_tokens = std::max(size.context, std::min(size.cache_tokens, kMostCacheTokens));
  return size;
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
  EngineSize size{
      .run = size_of(rows, options, found.config()),
      .num_drafts = rows.likelihood ? 0 : num_drafts(found, options.model)};  // 0: nothing is drawn
  const MemoryNeed need = memory_need(found, options.model, size);
  const OpenedModel model = open_model(std::move(found), options.model, need, size);
  const Config& config = model.loaded.config;
  Engine engine = make_engine(options.model, model, tokenizer ? &*tokenizer : nullptr);

  const nlohmann::ordered_json result = rows.likelihood ? score_rows(engine, config, options, rows)
                                                        : answer_rows(engine, config, options, rows);
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
  if (options.model.profile) print_profile(engine.runner().profile());
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
  args.add_option("--batch", options->batch, "Rows at once; the results don't depend on it (default: 16)")
      .integer_range(1, 4096)
      .type_name("N");
  args.add_flag("--json", options->json, "Print one JSON object");
  add_model_options(args, options->model);
  add_random_model_options(args, options->model);
  add_speculate_option(args, options->model);
  args.footer(
      "Examples:\n"
      "  fulgur eval models/mini-v32/eval/arithmetic.jsonl --limit 20\n"
      "  fulgur eval models/mini-v32/eval/kjv.jsonl --precision full --json");
  return [options] { return run_eval(*options); };
}

}  // namespace fulgur::cli
