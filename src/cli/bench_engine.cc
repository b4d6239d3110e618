// fulgur bench engine: tokens/s at many requests, with and without drafts, and the time to the first token.

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/text_file.h"
#include "cli/bench.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/streams.h"
#include "cli/token_lists.h"
#include "runtime/engine_bench.h"

namespace fulgur::cli {
namespace {

struct Options {
  ModelOptions model;
  EngineBench bench;
  std::string rows;
  int64_t prompt_tokens = 48;
  int64_t prefix_tokens = 2000;
  bool json = false;
};

/// The first ids of each row of an evaluation file.
std::vector<std::vector<int32_t>> read_prompts(const std::string& file, int64_t prompt_tokens) {
  const std::string text = read_text_file(file);
  std::vector<std::vector<int32_t>> prompts;
  size_t line = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::string name = fmt::format("{}:{}", file, ++line);
    const Json row = parse_json(take_line(rest), ErrorKind::kBadRequest, name);
    if (!row.is_object() || !row.contains("ids") || row["ids"].empty()) {
      throw Error(Problem{.kind = ErrorKind::kBadRequest,
                          .file = name,
                          .message = "This line holds no prompt.",
                          .expected = "an object with token ids in an array `ids`",
                          .todo = "give a file of such rows, as models/mini-v32/eval/kjv.jsonl"});
    }
    prompts.push_back(token_list(row["ids"], name));
    if (std::ssize(prompts.back()) > prompt_tokens) prompts.back().resize(static_cast<size_t>(prompt_tokens));
  }
  if (prompts.empty()) throw Error(ErrorKind::kBadRequest, fmt::format("{} holds no row.", file));
  return prompts;
}

std::vector<std::vector<int32_t>> draw_prompts(int count, int64_t prompt_tokens, int64_t vocab) {
  std::mt19937 random(0);
  std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(count));
  for (std::vector<int32_t>& prompt : prompts) {
    prompt.resize(static_cast<size_t>(prompt_tokens));
    for (int32_t& id : prompt) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
  }
  return prompts;
}

void print_line(const ThroughputLine& line, int drafts, bool json) {
  if (json) {
    print_out("{}\n", nlohmann::ordered_json{{"requests", line.requests},
                                             {"speculate", drafts},
                                             {"tokens_per_s", json_of(line.tokens_per_s)},
                                             {"step_us", json_of(line.step_us)},
                                             {"outside_model", json_of(line.outside_model)},
                                             {"drafted", line.drafted},
                                             {"accepted", line.accepted}}
                          .dump());
  } else {
    const Spread percent{100 * line.outside_model.median, 100 * line.outside_model.least,
                         100 * line.outside_model.most};
    print_out("{:>8}{:>11}  {:<24}{:<28}{:<18}{}\n", line.requests, drafts, text(line.tokens_per_s, 0),
              text(line.step_us, 1), text(percent, 1),
              line.drafted > 0 ? fmt::format("{} of {}", line.accepted, line.drafted) : "");
  }
  flush_output();
}

void print_first_token(const FirstTokenTimes& times, int64_t prefix, bool json) {
  if (json) {
    print_out("{}\n", nlohmann::ordered_json{{"prompt_tokens", prefix + kTailTokens},
                                             {"first_token_ms", json_of(times.computed)},
                                             {"first_token_ms_cached", json_of(times.cached)}}
                          .dump());
  } else {
    print_out("\nfirst token of a prompt of {} tokens: {} ms; with its first {} cached: {} ms\n",
              prefix + kTailTokens, text(times.computed, 2), prefix / kPageTokens * kPageTokens,
              text(times.cached, 2));
  }
}

/// Before the model is loaded: the engine would refuse it in the middle.
void check_positions(const RunSize& size, const Config& config) {
  if (size.context <= config.max_position_embeddings) return;
  throw Error(Problem{
      .kind = ErrorKind::kBadRequest,
      .message = "A request of this bench is longer than the model's positions.",
      .expected = fmt::format("at most max_position_embeddings = {}", config.max_position_embeddings),
      .found = fmt::format("{} tokens", size.context),
      .todo =
          "ask for shorter prompts (--prompt-tokens, --prefix-tokens), fewer --new-tokens or --requests"});
}

int run_bench(const Options& options) {
  EngineBench bench = options.bench;
  const int most = *std::ranges::max_element(bench.requests);
  FoundModel found = find_model(options.model);
  const int64_t vocab = found.config().vocab_size;
  bench.prompts = options.rows.empty() ? draw_prompts(most, options.prompt_tokens, vocab)
                                       : read_prompts(options.rows, options.prompt_tokens);
  const int drafts = num_drafts(found, options.model);
  // Each has caches of its own, so the reading engine goes before the others come.
  EngineSize reading{.run = first_token_size(options.prefix_tokens)};
  EngineSize plainly{.run = bench.size(0)};
  EngineSize with_drafts{.run = bench.size(drafts), .num_drafts = drafts};
  for (const EngineSize& engine : {reading, plainly, with_drafts})
    check_positions(engine.run, found.config());
  MemoryNeed need = memory_need(found, options.model, plainly);
  MemoryNeed before = memory_need(found, options.model, reading);
  before.process = need.process;  // of which finding the need is a part itself
  if (drafts > 0) need.add_engine(memory_need(found, options.model, with_drafts));
  if (before.total() > need.total()) need = before;
  const OpenedModel model = open_model(std::move(found), options.model, need, plainly);
  {
    Engine engine = make_engine(options.model, model, reading, nullptr);
    print_first_token(bench_first_token(engine, options.prefix_tokens, bench.rounds), options.prefix_tokens,
                      options.json);
  }
  const auto decoding = [&](const EngineSize& size) {
    const SchedulerOptions scheduler{.step_tokens = size.run.step_tokens,
                                     .max_running = static_cast<int>(size.run.sequences),
                                     .prefix_cache = false};
    return make_engine(options.model, model, size, nullptr, scheduler);
  };
  Engine plain = decoding(plainly);
  if (!options.json) {
    print_out("\n{:>8}{:>11}  {:<24}{:<28}{:<18}{}\n", "requests", "speculate", "tokens/s", "us a step",
              "% outside model", drafts > 0 ? "drafts right" : "");
  }
  const auto time = [&](const std::vector<BenchedEngine>& engines) {
    bench_throughput(engines, bench, [&](const ThroughputLine& line) {
      print_line(line, engines[line.engine].num_drafts, options.json);
    });
  };
  if (drafts == 0) {
    time({{&plain, 0}});
  } else {
    Engine drafting = decoding(with_drafts);
    time({{&plain, 0}, {&drafting, drafts}});
  }
  return kExitDone;
}

}  // namespace

std::function<int()> declare_bench_engine(Arguments& args) {
  auto options = std::make_shared<Options>();
  args.add_option("--requests", options->bench.requests, "Requests at once (default: 1,4,16,64)")
      .comma_separated()
      .integer_range(1, 4096);
  args.add_option("--rows", options->rows,
                  "JSON lines with `ids` to begin with, as of fulgur eval (default: ids drawn at random)")
      .path()
      .type_name("FILE");
  args.add_option("--prompt-tokens", options->prompt_tokens, "Tokens of a prompt (default: 48)")
      .integer_range(1, 1 << 20)
      .type_name("N");
  args.add_option("--new-tokens", options->bench.new_tokens, "Tokens that follow it, greedily (default: 64)")
      .integer_range(2, 1 << 20)
      .type_name("N");
  args.add_option("--prefix-tokens", options->prefix_tokens,
                  "Tokens of the prompt whose first token is waited for, less 16 (default: 2000)")
      .integer_range(kPageTokens, 1 << 20)
      .type_name("N");
  args.add_option("--rounds", options->bench.rounds, "Measurements of each figure (default: 5)")
      .integer_range(1, 1000)
      .type_name("N");
  args.add_flag("--json", options->json, "Print one JSON object a line");
  add_model_options(args, options->model);
  add_random_model_options(args, options->model);
  add_speculate_option(args, options->model);
  args.footer(
      "Prints the median (least-most) of the rounds: the time to the first token of a prompt, computed and "
      "with\n"
      "its prefix cached; then tokens/s of requests that decode at once, without drafts and with them, "
      "taking\n"
      "turns. 'outside model' is the share of a step that is scheduling, sampling and bookkeeping.\n\n"
      "Examples:\n"
      "  fulgur bench engine --rows models/mini-v32/eval/kjv.jsonl\n"
      "  fulgur bench engine --requests 1,64 --rounds 3 --threads 1 --json");
  return [options] { return run_bench(*options); };
}

}  // namespace fulgur::cli
