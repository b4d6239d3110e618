// fulgur demo: the project's story in a few seconds, on the bundled mini-v32.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/printable.h"
#include "base/text_file.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/streams.h"
#include "fulgur/engine.h"
#include "ops/backend.h"
#include "ops/profile.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {
namespace {

/// The demo asks the first prompt of this length of the model's retrieval set whose number stands at least so
/// many tokens before the end: out of reach of whatever looks only at what is near.
constexpr int64_t kPromptLength = 4000;
constexpr int64_t kLeastDistance = 2000;
constexpr int64_t kAnswerTokens = 16;
constexpr int64_t kDecodeTokens = 64;
constexpr int64_t kShownTokens = 512;  // the prompt's cost is shown for so many

struct Question {
  std::string user;
  std::string answer;
  std::vector<int32_t> ids;
  int64_t num_numbers = 0;  // named in the prompt, each once
  int64_t distance = 0;     // tokens from the one that is asked for to the end
};

Question read_question(const std::filesystem::path& folder, const Tokenizer& tokenizer) {
  const std::filesystem::path file = folder / "eval/retrieval.jsonl";
  const std::string text = read_text_file(file);
  for (std::string_view rest = text; !rest.empty();) {
    const Json row = parse_json(take_line(rest), ErrorKind::kBadRequest, file.string());
    const auto integer = [&](const char* field) {
      return row.is_object() && row.contains(field) && row[field].is_number_integer()
                 ? row[field].get<int64_t>()
                 : 0;
    };
    const auto has_text = [&](const char* field) { return row.contains(field) && row[field].is_string(); };
    if (integer("length") != kPromptLength || integer("distance") < kLeastDistance) continue;
    if (!has_text("user") || !has_text("answer") || !has_text("prompt")) continue;
    return {.user = row["user"],
            .answer = row["answer"],
            .ids = tokenizer.encode(row["prompt"].get<std::string>()),
            .num_numbers = integer("needles"),
            .distance = integer("distance")};
  }
  throw Error(Problem{.kind = ErrorKind::kBadRequest,
                      .file = file.string(),
                      .message = "There is no question for the demo in this file.",
                      .expected = fmt::format("a row of length {} and a distance of at least {}",
                                              kPromptLength, kLeastDistance),
                      .found = "none",
                      .todo = "leave --model away: the demo is made for mini-v32"});
}

/// Counts what the last row of each layer that owns an indexer attended to.
class SelectionCounter : public StepObserver {
 public:
  explicit SelectionCounter(const Backend& backend) : backend_(backend) {}
  void selected(int layer, Matrix<const int32_t> selected) override {
    std::vector<int32_t> row(static_cast<size_t>(selected.cols));
    backend_.download(row.data(), selected.row(selected.rows - 1), row.size() * sizeof(int32_t));
    counts_[layer] = std::ranges::count_if(row, [](int32_t position) { return position >= 0; });
  }
  /// Of a layer, or of the one whose selection it shares.
  [[nodiscard]] int64_t count(int64_t layer) const { return std::prev(counts_.upper_bound(layer))->second; }

 private:
  const Backend& backend_;
  std::map<int64_t, int64_t> counts_;
};

struct Answer {
  std::string text;
  std::vector<int64_t> attended;  // by the last token that was read, in each layer
  int64_t num_tokens = 0;         // that it could have attended to
};

Answer ask(Engine& engine, const OpenedModel& model, const Question& question) {
  SelectionCounter selections(engine.runner().backend());
  engine.runner().set_observer(&selections);
  const Completion completion = engine.submit({.prompt = question.ids, .max_tokens = kAnswerTokens}).wait();
  engine.runner().set_observer(nullptr);

  // The last token was drawn and not run.
  const auto num_tokens = completion.prompt_tokens + std::ssize(completion.ids) - 1;
  Answer answer{.text = completion.text, .num_tokens = num_tokens};
  const bool everything = model.selection != nullptr && model.selection->everything();
  for (int64_t layer = 0; layer < model.loaded.config.num_hidden_layers; ++layer) {
    answer.attended.push_back(everything ? answer.num_tokens : selections.count(layer));
  }
  return answer;
}

struct Run {
  std::vector<float> logits;  // of the prompt's last token and of each decoded one
  double prompt_s = 0;
  double decode_s = 0;
  double prepare_prompt_us = 0;  // indexer_prepare, a layer and kShownTokens of the prompt
  double prepare_decode_us = 0;  // a layer and token
};

/// Of a layer and token, over `num_tokens` in steps of `step_tokens`.
double prepare_us(const Profile& profile, int64_t num_tokens, int64_t step_tokens) {
  const Profile::Line& line = profile.line(OpKind::kIndexerPrepare);
  const int64_t num_steps = (num_tokens + step_tokens - 1) / step_tokens;
  const double layers = static_cast<double>(line.calls) / static_cast<double>(num_steps);
  return std::chrono::duration<double, std::micro>(line.time).count() / layers /
         static_cast<double>(num_tokens);
}

/// Keeps the logits that tokens are drawn from.
class LogitsKeeper : public StepObserver {
 public:
  LogitsKeeper(const Backend& backend, std::vector<float>& logits) : backend_(backend), logits_(logits) {}
  void drawn_from(Matrix<const float> logits) override {
    const size_t before = logits_.size();
    logits_.resize(before + static_cast<size_t>(logits.cols));
    backend_.download(logits_.data() + before, logits.data, static_cast<size_t>(logits.cols) * sizeof(float));
  }

 private:
  const Backend& backend_;
  std::vector<float>& logits_;
};

/// Prompt and kDecodeTokens greedy tokens, timed.
Run run_with(Engine& engine, IndexerProjection projection, const std::vector<int32_t>& prompt,
             int64_t step_tokens) {
  Run run;
  StepRunner& runner = engine.runner();
  LogitsKeeper keeper(runner.backend(), run.logits);
  runner.set_projection(projection);
  runner.set_observer(&keeper);
  runner.profile().reset();
  bool in_prompt = true;
  // The prompt brings forth the first token; the last one isn't run.
  const Completion completion =
      engine
          .submit({.prompt = prompt,
                   .max_tokens = kDecodeTokens + 1,
                   .ignore_end_tokens = true,
                   .on_token =
                       [&](const GeneratedToken&) {
                         if (!std::exchange(in_prompt, false)) return;
                         run.prepare_prompt_us =
                             kShownTokens * prepare_us(runner.profile(), std::ssize(prompt), step_tokens);
                         runner.profile().reset();
                       }})
          .wait();
  runner.set_observer(nullptr);
  run.prompt_s = completion.prompt_s;
  run.decode_s = completion.decode_s;
  run.prepare_decode_us = prepare_us(runner.profile(), kDecodeTokens, 1);
  return run;
}

/// 3893 as "3,893".
std::string with_commas(int64_t count) {
  std::string digits = std::to_string(count);
  for (auto at = static_cast<int64_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<size_t>(at), 1, ',');
  return digits;
}

bool same_bits(const Run& a, const Run& b) {
  return a.logits.size() == b.logits.size() &&
         std::memcmp(a.logits.data(), b.logits.data(), a.logits.size() * sizeof(float)) == 0;
}

/// The same prompt and kDecodeTokens of its continuation in each form of the projections: whether all have
/// the same logits.
bool compare_projections(Engine& engine, const Question& question, int64_t step_tokens) {
  constexpr std::array kForms = {std::pair{"separate", IndexerProjection::kSeparate},
                                 std::pair{"overlapped", IndexerProjection::kOverlapped},
                                 std::pair{"fused", IndexerProjection::kFused}};
  std::array<Run, kForms.size()> runs;
  run_with(engine, IndexerProjection::kFused, question.ids, step_tokens);  // warm up
  for (size_t i = 0; i < kForms.size(); ++i)
    runs[i] = run_with(engine, kForms[i].second, question.ids, step_tokens);

  const auto prompt_tokens = static_cast<double>(question.ids.size());
  const auto rate = [](double tokens, double seconds) { return with_commas(std::lround(tokens / seconds)); };
  const Run& fused = runs.back();
  print_out("speed      prefill {} tokens/s, decode {} tokens/s\n\n", rate(prompt_tokens, fused.prompt_s),
            rate(kDecodeTokens, fused.decode_s));
  print_out(
      "The indexer projects each token twice, by wk to its key and by weights_proj to its head weights.\n"
      "As two products, as two at a time, and as one with the fused matrix [wk; weights_proj]:\n\n");
  print_out("{:<10}  {:>16}  {:>15}   {:>20}  {:>20}   {}\n", "", "prefill", "decode", "a layer, one token",
            fmt::format("a layer, {} tokens", kShownTokens), "logits");
  bool all_same = true;
  for (size_t i = 0; i < kForms.size(); ++i) {
    const Run& run = runs[i];
    const bool same = same_bits(run, fused);
    all_same = all_same && same;
    print_out("{:<10}  {:>16}  {:>15}   {:>20}  {:>20}   {}\n", kForms[i].first,
              rate(prompt_tokens, run.prompt_s) + " tokens/s",
              rate(kDecodeTokens, run.decode_s) + " tokens/s",
              fmt::format("{:.1f} us", run.prepare_decode_us),
              fmt::format("{:.0f} us", run.prepare_prompt_us), same ? "same bits" : "DIFFER");
  }
  if (all_same) print_out("\nAll three give the same bits.\n");
  return all_same;
}

int run_demo(const ModelOptions& options) {
  FoundModel found = find_model(options);
  const std::optional<Tokenizer> tokenizer = open_tokenizer(found);
  if (!tokenizer || !found.config().sparse())
    throw Error(
        Problem{.kind = ErrorKind::kBadRequest,
                .file = found.folder.string(),
                .message = "The demo can't be shown with this model.",
                .expected = "mini-v32, or a model with an indexer, tokenizer.json and eval/retrieval.jsonl",
                .found = tokenizer ? "a model without an indexer" : "a model without tokenizer.json",
                .todo = "leave --model away"});
  const std::filesystem::path folder = found.folder;
  const Question question = read_question(folder, *tokenizer);
  const auto prompt_tokens = static_cast<int64_t>(question.ids.size());

  const OpenedModel model = open_model(
      std::move(found), options, {.cache_tokens = prompt_tokens + kDecodeTokens, .prompt = prompt_tokens});
  const Config& config = model.loaded.config;
  ModelOptions profiling = options;
  profiling.profile = true;
  const SchedulerOptions steps{.max_running = 1, .prefix_cache = false};
  Engine engine = make_engine(profiling, model, &*tokenizer, steps);
  print_out("model      {}: {} layers, {} architecture, {}\n", folder.filename().string(),
            config.num_hidden_layers, name(config.model_type), engine.runner().backend().name);
  print_out("prompt     {} tokens of prose, with {} secret numbers strewn in, each named once\n",
            with_commas(prompt_tokens), question.num_numbers);
  print_out("question   {} (named {} tokens before the end)\n", question.user,
            with_commas(question.distance));
  flush_output();

  const Answer answer = ask(engine, model, question);
  const bool right = answer.text == question.answer;
  print_out("answer     {} ({})\n", answer.text, right ? "right" : "wrong, it is " + question.answer);
  print_out("attended  ");
  for (size_t layer = 0; layer < answer.attended.size(); ++layer) {
    print_out("{} layer {}: {}", layer == 0 ? "" : ",", layer, with_commas(answer.attended[layer]));
  }
  print_out(" of {} tokens\n", with_commas(answer.num_tokens));
  flush_output();
  if (options.profile) print_profile(engine.runner().profile());

  const bool same = compare_projections(engine, question, steps.step_tokens);
  if (options.selection == "indexer") {
    print_out("\nWhat if something else chose what is read? fulgur demo --selection recent, random or all\n");
  }
  flush_output();
  if (!same) print_log("The three projections differ: this is a mistake in Fulgur, please report it.\n");
  if (!right)
    print_log("The answer is wrong: the number is {}, the model said {}.\n", question.answer,
              printable(answer.text));
  return right && same ? kExitDone : kExitFailed;
}

}  // namespace

std::function<int()> declare_demo(Arguments& args) {
  auto options = std::make_shared<ModelOptions>();
  add_model_options(args, *options);
  args.footer(
      "Examples:\n"
      "  fulgur demo\n"
      "  fulgur demo --threads 1\n"
      "  fulgur demo --selection all\n"
      "  fulgur demo --profile");
  return [options] { return run_demo(*options); };
}

}  // namespace fulgur::cli
