// fulgur eval: exact-match accuracy of greedy answers, and the likelihood of given text.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "cli/command.h"
#include "cli/eval_rows.h"
#include "cli/model_options.h"
#include "cli/progress.h"
#include "cli/streams.h"
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

/// What is kept of a row that was answered.
struct Answer {
  std::string text;
  bool correct = false;
};

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

/// Rows that the engine runs at once. One with `ids` ends with its prompt, so there are no more of them than
/// a step has room for.
int64_t sequences_at_once(const Rows& rows, const Options& options) {
  const int64_t sequences =
      std::min({options.batch, std::ssize(rows.rows), int64_t{SchedulerOptions{}.max_running}});
  if (!rows.likelihood) return sequences;
  const auto by_length = [](const Row& a, const Row& b) { return a.ids.size() < b.ids.size(); };
  const Row& shortest = *std::ranges::min_element(rows.rows, by_length);
  return std::min(sequences, kStepTokens / (std::ssize(shortest.ids) - 1) + 2);
}

/// Rows that are on their way: those, and as many that wait to take their places. More would only take
/// memory.
int64_t rows_at_once(const Rows& rows, const Options& options) {
  return std::min({options.batch, std::ssize(rows.rows), 2 * sequences_at_once(rows, options)});
}

/// What is kept of all rows until it is printed: nats, or texts as long as they may become, a token of as
/// many bytes as in the prompts.
uint64_t results_bytes(const Rows& rows, const Options& options, const Config& config) {
  if (rows.likelihood) return rows.rows.size() * sizeof(double);
  int64_t prompts = 0;
  int64_t answers = 0;
  for (const Row& row : rows.rows) {
    prompts += std::ssize(row.ids);
    answers += rows.new_tokens(row, options.max_tokens.value_or(kDefaultMaxTokens), config);
  }
  return rows.rows.size() * sizeof(Answer) +
         static_cast<uint64_t>(static_cast<double>(rows.prompt_bytes) * static_cast<double>(answers) /
                               static_cast<double>(prompts));
}

/// Calls done(i, completion) for each row in order, with `at_once` of them on their way at once. The first
/// begin together, so that it does not depend on chance what memory their step takes.
template <typename MakeRequest, typename Done>
void for_each_row(Engine& engine, size_t num_rows, int64_t at_once, const MakeRequest& request,
                  const Done& done) {
  Progress progress("eval", "row");
  size_t next = 0;
  std::vector<Request> first;
  for (; next < num_rows && static_cast<int64_t>(next) < at_once; ++next) first.push_back(request(next));
  std::vector<Generation> begun = engine.submit_all(std::move(first));
  std::deque<Generation> running(begun.begin(), begun.end());
  for (size_t ended = 0; ended < num_rows; ++ended) {
    if (next < num_rows && static_cast<int64_t>(running.size()) < at_once) {
      running.push_back(engine.submit(request(next++)));
    }
    done(ended, running.front().wait());
    running.pop_front();
    progress.update(ended + 1, num_rows);
  }
}

/// Prints one JSON object: `totals`, and item(i) of each row, none of which is kept.
template <typename Item>
void print_json(const nlohmann::ordered_json& totals, size_t num_rows, const Item& item) {
  std::string text = totals.dump();
  text.pop_back();
  print_out("{},\"items\":[", text);
  for (size_t i = 0; i < num_rows; ++i) print_out("{}{}", i == 0 ? "" : ",", item(i).dump());
  print_out("]}}\n");
}

void answer_rows(Engine& engine, const Config& config, const Options& options, const Rows& rows) {
  std::vector<Answer> answers;
  answers.reserve(rows.rows.size());
  size_t correct = 0;
  const auto request = [&](size_t i) {
    const Row& row = rows.rows[i];
    return Request{.prompt = row.ids,
                   .max_tokens = rows.new_tokens(row, options.max_tokens.value_or(kDefaultMaxTokens), config),
                   .on_token = [](const GeneratedToken&) {}};  // nobody takes them one by one: none are kept
  };
  for_each_row(engine, rows.rows.size(), rows_at_once(rows, options), request,
               [&](size_t i, Completion answer) {
                 const bool right = is_correct(answer.text, rows.rows[i]);
                 correct += right ? 1 : 0;
                 answers.push_back({std::move(answer.text), right});
               });
  const size_t total = rows.rows.size();
  const double accuracy = static_cast<double>(correct) / static_cast<double>(total);
  if (options.json) {
    print_json({{"accuracy", accuracy}, {"correct", correct}, {"total", total}}, total, [&](size_t i) {
      return nlohmann::ordered_json{
          {"id", rows.rows[i].id}, {"output", answers[i].text}, {"correct", answers[i].correct}};
    });
    return;
  }
  for (size_t i = 0; i < total; ++i) {
    if (answers[i].correct) continue;
    print_out("wrong  {}  {}\n", rows.rows[i].id.dump(), Json(answers[i].text).dump());
  }
  print_out("{} of {} right ({:.1f}%)\n", correct, total, 100 * accuracy);
}

void score_rows(Engine& engine, const Config& config, const Options& options, const Rows& rows) {
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
  for_each_row(
      engine, rows.rows.size(), rows_at_once(rows, options), request, [&](size_t i, const Completion&) {
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
      });
  const double perplexity = std::exp(nats / static_cast<double>(tokens));
  if (options.json) {
    print_json({{"nats", nats}, {"tokens", tokens}, {"perplexity", perplexity}}, rows.rows.size(),
               [&](size_t i) {
                 const Row& row = rows.rows[i];
                 return nlohmann::ordered_json{
                     {"id", row.id}, {"nats", (*of_row)[i]}, {"tokens", row.ids.size() - 1}};
               });
    return;
  }
  print_out("{:.4f} nats over {} tokens in {} rows, perplexity {:.4f}\n", nats, tokens, rows.rows.size(),
            perplexity);
}

/// What the rows take: caches for any `batch` that follow one another, but no more than kMostCacheTokens
/// unless one row needs them. With fewer than a batch needs, fewer run at once.
RunSize size_of(const Rows& rows, const Options& options, const Config& config) {
  RunSize size{.sequences = sequences_at_once(rows, options),
               .requests = rows_at_once(rows, options),
               .hands_out_logits = rows.likelihood,
               .results_bytes = results_bytes(rows, options, config)};
  int64_t prompts = 0;  // of those at once, as what follows
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
      pages -= pages_for(at_once.front().second);
      at_once.pop_front();
    }
    at_once.emplace_back(prompt, whole);
    prompts += prompt;
    pages += pages_for(whole);
    size.prompts = std::max(size.prompts, prompts);
    size.cache_tokens = std::max(size.cache_tokens, pages * kPageTokens);
  }
  size.cache_tokens = std::max(size.context, std::min(size.cache_tokens, kMostCacheTokens));
  return size;
}

int run_eval(const Options& options) {
  FoundModel found = find_model(options.model);
  const std::optional<Tokenizer> tokenizer = open_tokenizer(found);
  const Rows rows = read_rows(options.file, options.limit, found.config(), tokenizer ? &*tokenizer : nullptr);
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

  (rows.likelihood ? score_rows : answer_rows)(engine, config, options, rows);
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
