// fulgur demo: the project's story in a few seconds, on the bundled mini-v32.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text_file.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "ops/backend.h"
#include "ops/profile.h"
#include "runtime/generate.h"
#include "runtime/session.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {
namespace {

/// The demo asks the first prompt of this length of the model's retrieval set.
constexpr int64_t kPromptLength = 4000;
constexpr int kDecodeTokens = 64;

struct Question {
  std::string user;
  std::string answer;
  std::vector<int32_t> ids;
  int64_t distance = 0;  // tokens from the number to the end
};

Question read_question(const std::filesystem::path& folder, const Tokenizer& tokenizer) {
  const std::filesystem::path file = folder / "eval/retrieval.jsonl";
  const std::string text = read_text_file(file);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const nlohmann::json row = nlohmann::json::parse(text.substr(begin, end - begin), nullptr, false);
    begin = end + 1;
    if (!row.is_object() || row.value("length", int64_t{0}) != kPromptLength) continue;
    return {.user = row.at("user"),
            .answer = row.at("answer"),
            .ids = tokenizer.encode(row.at("prompt").get<std::string>()),
            .distance = row.at("distance")};
  }
  throw Error(ErrorKind::kBadRequest,
              fmt::format("{} holds no prompt of {} tokens.", file.string(), kPromptLength));
}

/// Counts what the last row of each layer attended to.
class AttendedCounter : public StepObserver {
 public:
  explicit AttendedCounter(const Backend& backend) : backend_(backend) {}
  void selected(int layer, Matrix<const int32_t> selected) override {
    std::vector<int32_t> row(static_cast<size_t>(selected.cols));
    backend_.download(row.data(), selected.row(selected.rows - 1), row.size() * sizeof(int32_t));
    counts_[layer] = std::ranges::count_if(row, [](int32_t position) { return position >= 0; });
  }
  [[nodiscard]] const std::map<int, int64_t>& counts() const { return counts_; }

 private:
  const Backend& backend_;
  std::map<int, int64_t> counts_;
};

struct Run {
  std::vector<float> logits;  // of the prompt's last token and of each decoded one
  double prompt_s = 0;
  double decode_s = 0;
  double prepare_prompt_us = 0;  // indexer_prepare, a layer and 512-token step
  double prepare_decode_us = 0;  // a layer and token
};

double us_a_call(const Profile::Line& line) {
  return std::chrono::duration<double, std::micro>(line.time).count() / static_cast<double>(line.calls);
}

/// Prompt and kDecodeTokens greedy tokens, timed.
Run run_with(Session& session, IndexerProjection projection, const std::vector<int32_t>& prompt) {
  using Clock = std::chrono::steady_clock;
  Run run;
  session.set_projection(projection);
  const int sequence = session.open();
  const SamplingParams greedy;
  const LogitsSink keep = [&](int, int64_t, Matrix<const float> rows) {
    run.logits.insert(run.logits.end(), rows.data, rows.data + rows.cols);
  };
  Work work{.sequence = sequence, .tokens = prompt, .logits = Wanted::kLast, .sampling = &greedy};
  session.reset_profile();
  auto start = Clock::now();
  int32_t next = session.run(std::span(&work, 1), keep).front();
  run.prompt_s = std::chrono::duration<double>(Clock::now() - start).count();
  run.prepare_prompt_us = us_a_call(session.profile().line(OpKind::kIndexerPrepare));

  session.reset_profile();
  start = Clock::now();
  for (int i = 0; i < kDecodeTokens; ++i) {
    work.tokens = std::span(&next, 1);
    const int32_t drawn = session.run(std::span(&work, 1), keep).front();
    next = drawn;
  }
  run.decode_s = std::chrono::duration<double>(Clock::now() - start).count();
  run.prepare_decode_us = us_a_call(session.profile().line(OpKind::kIndexerPrepare));
  session.close(sequence);
  return run;
}

int run_demo(const ModelOptions& options) {
  const OpenedModel model = open_model(options);
  const Config& config = model.loaded.config;
  const std::optional<Tokenizer> tokenizer = open_tokenizer(model.folder);
  if (!tokenizer || !config.sparse())
    throw Error(ErrorKind::kBadRequest, "The demo needs mini-v32 or a model like it.");
  const Question question = read_question(model.folder, *tokenizer);
  const auto prompt_tokens = static_cast<int64_t>(question.ids.size());

  SessionOptions session_opts = session_options(options, model, prompt_tokens + kDecodeTokens);
  session_opts.profile = true;
  Session session(model.loaded, session_opts);
  fmt::print("model      {}: {} layers, DeepSeek-V3.2 architecture, {}\n", model.folder.filename().string(),
             config.num_hidden_layers, session.backend().name);
  fmt::print("prompt     {} tokens of prose; a number is named once, {} tokens before the end\n",
             prompt_tokens, question.distance);

  AttendedCounter attended(session.backend());
  session.set_observer(&attended);
  const int sequence = session.open();
  GenerateResult answer = generate(
      session, sequence, {.prompt = question.ids, .max_tokens = 16, .stop_ids = config.eos_token_ids},
      [](int32_t) { return true; });
  session.close(sequence);
  session.set_observer(nullptr);
  if (answer.finish == FinishReason::kStop) answer.ids.pop_back();
  const std::string text = tokenizer->decode(answer.ids);
  fmt::print("question   {}\nanswer     {} ({})\n", question.user, text,
             text == question.answer ? "right" : "wrong, it is " + question.answer);
  fmt::print("attended  ");
  for (const auto& [layer, count] : attended.counts()) {
    fmt::print("{} layer {}: {} of {} tokens", layer == 0 ? "" : ",", layer, count,
               prompt_tokens + static_cast<int64_t>(answer.ids.size()));
  }
  fmt::print("\n\n");

  constexpr std::array kModes = {std::pair{"separate", IndexerProjection::kSeparate},
                                 std::pair{"overlapped", IndexerProjection::kOverlapped},
                                 std::pair{"fused", IndexerProjection::kFused}};
  std::array<Run, kModes.size()> runs;
  run_with(session, IndexerProjection::kFused, question.ids);  // warm up
  for (size_t i = 0; i < kModes.size(); ++i) runs[i] = run_with(session, kModes[i].second, question.ids);
  fmt::print("{:<12}{:>18}{:>18}{:>26}{:>24}{:>8}\n", "wk, weights", "prefill tokens/s", "decode tokens/s",
             "indexer_prepare us/layer", "us/layer and 512 rows", "logits");
  bool same = true;
  for (size_t i = 0; i < kModes.size(); ++i) {
    const Run& run = runs[i];
    const bool equal =
        run.logits.size() == runs.back().logits.size() &&
        std::memcmp(run.logits.data(), runs.back().logits.data(), run.logits.size() * sizeof(float)) == 0;
    same = same && equal;
    fmt::print("{:<12}{:>18.0f}{:>18.0f}{:>26.2f}{:>24.1f}{:>8}\n", kModes[i].first,
               static_cast<double>(prompt_tokens) / run.prompt_s, kDecodeTokens / run.decode_s,
               run.prepare_decode_us, run.prepare_prompt_us, equal ? "same" : "DIFFER");
  }
  fmt::print("\n{}\n",
             same ? "All three give the same bits." : "The three projections differ: please report this.");
  return same && text == question.answer ? kExitDone : kExitFailed;
}

}  // namespace

std::function<int()> declare_demo(CLI::App& app) {
  auto options = std::make_shared<ModelOptions>();
  add_model_options(app, *options);
  app.footer(
      "Examples:\n"
      "  fulgur demo\n"
      "  fulgur demo --threads 1");
  return [options] { return run_demo(*options); };
}

}  // namespace fulgur::cli
