// fulgur generate: continues a prompt.

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/process_memory.h"
#include "base/text_file.h"
#include "cli/command.h"
#include "cli/json_pieces.h"
#include "cli/model_options.h"
#include "cli/sampling_options.h"
#include "cli/streams.h"
#include "cli/token_lists.h"
#include "fulgur/engine.h"
#include "runtime/prompt.h"
#include "runtime/request_check.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {
namespace {

/// New tokens where --max-tokens doesn't say.
constexpr int64_t kDefaultMaxTokens = 256;

struct Options {
  ModelOptions model;
  Sampling sampling;
  std::optional<std::string> prompt;
  std::string file;
  std::string ids;
  std::optional<int64_t> max_tokens;
  std::vector<std::string> stops;
  bool json = false;
};

std::vector<int32_t> prompt_ids(const Options& options, const Config& config, const Tokenizer* tokenizer) {
  if (!options.ids.empty()) {
    std::vector<int32_t> ids;
    try {
      ids = parse_ids(options.ids, "--ids");
    } catch (const Error&) {  // a flag's value: usage, not a failure
      usage_error("--ids", "'" + options.ids + "' is not a list of token ids such as 1,2,3");
    }
    if (ids.empty()) usage_error("--ids", "the list holds no token id");
    return ids;
  }
  if (tokenizer == nullptr) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .message = "This model has no tokenizer.json, so it can't read text.",
                        .todo = "give the prompt as token ids: --ids 1,2,3"});
  }
  const bool from_file = !options.file.empty();
  const std::string text = from_file                ? read_text_file(options.file)
                           : *options.prompt == "-" ? read_text_file("-")
                                                    : *options.prompt;
  std::vector<int32_t> ids = encode_prompt(*tokenizer, config, text);
  if (ids.empty())
    throw Error(ErrorKind::kBadRequest,
                "The prompt is empty, and this model has no BOS token to begin with.");
  return ids;
}

int64_t new_tokens(const Options& options, const Config& config, int64_t prompt_tokens) {
  const int64_t room = config.max_position_embeddings - prompt_tokens;
  if (room < 1 || (options.max_tokens && *options.max_tokens > room)) {
    throw Error(Problem{
        .kind = ErrorKind::kBadRequest,
        .message = "The prompt and the new tokens don't fit the model's positions.",
        .expected = fmt::format("at most max_position_embeddings = {}", config.max_position_embeddings),
        .found = fmt::format("{} prompt tokens and --max-tokens {}", prompt_tokens,
                             options.max_tokens.value_or(1)),
        .todo = "shorten the prompt or ask for fewer tokens"});
  }
  return options.max_tokens.value_or(std::min(kDefaultMaxTokens, room));
}

void print_summary(const OpenedModel& model, const Completion& result) {
  const auto per_second = [](double tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0.0; };
  const double decoded = static_cast<double>(result.ids.size()) - 1;
  const std::string drafts =
      result.drafted > 0
          ? fmt::format(", {} of {} drafts right ({:.0f}%)", result.accepted, result.drafted,
                        100 * static_cast<double>(result.accepted) / static_cast<double>(result.drafted))
          : "";
  print_log(
      "{} prompt tokens in {:.3f} s ({:.0f}/s), {} new tokens, {:.3f} s ({:.0f}/s), finish {}{}; loaded "
      "in {:.3f} s, peak "
      "memory {} MiB of {} predicted\n",
      result.prompt_tokens, result.prompt_s,
      per_second(static_cast<double>(result.prompt_tokens), result.prompt_s), result.ids.size(),
      result.decode_s, per_second(decoded, result.decode_s), name(result.finish), drafts, model.load_s,
      peak_rss_bytes() >> 20, model.memory.total() >> 20);
}

/// Its lists and its text piece by piece.
void print_json(const OpenedModel& model, const std::vector<int32_t>& prompt, bool has_text,
                const Completion& result) {
  nlohmann::ordered_json timings = {{"load_s", model.load_s},      {"prompt_tokens", result.prompt_tokens},
                                    {"prompt_s", result.prompt_s}, {"generated_tokens", result.ids.size()},
                                    {"decode_s", result.decode_s}, {"peak_rss_bytes", peak_rss_bytes()}};
  if (model.engine.num_drafts > 0) {
    timings["drafted"] = result.drafted;
    timings["accepted"] = result.accepted;
  }
  write_out("{\"text\":");
  if (has_text) {
    write_json_text(result.text);
  } else {
    write_out("null");
  }
  write_out(",\"prompt_ids\":");
  write_json_ids(prompt);
  write_out(",\"ids\":");
  write_json_ids(result.ids);
  print_out(",\"finish_reason\":\"{}\",\"timings\":{}}}\n", name(result.finish), timings.dump());
}

int run_generate(const Options& options) {
  if (!options.prompt && options.file.empty() && options.ids.empty()) {
    usage_required("PROMPT, --file or --ids");
  }
  FoundModel found = find_model(options.model);
  const std::optional<Tokenizer> tokenizer = open_tokenizer(found);
  if (!tokenizer && !options.stops.empty()) {
    throw Error(ErrorKind::kBadRequest, "--stop needs a model with a tokenizer.json.");
  }
  const std::vector<int32_t> prompt = prompt_ids(options, found.config(), tokenizer ? &*tokenizer : nullptr);
  const auto prompt_tokens = static_cast<int64_t>(prompt.size());
  const int64_t max_tokens = new_tokens(options, found.config(), prompt_tokens);
  Request request{
      .prompt = prompt, .max_tokens = max_tokens, .sampling = options.sampling, .stop = options.stops};
  check_request(request, found.config(), tokenizer.has_value());
  const OpenedModel model = open_model(std::move(found), options.model,
                                       {.cache_tokens = prompt_tokens + max_tokens, .prompt = prompt_tokens});
  Engine engine = make_engine(options.model, model, tokenizer ? &*tokenizer : nullptr);
  if (options.json) {
    request.on_token = [](const GeneratedToken&) {};  // nobody takes them one by one: none are kept
  } else {
    // On the engine's thread: to wake this one for each token would cost a small model more than the
    // printing.
    request.on_token = [&, first = true](const GeneratedToken& token) mutable {
      if (tokenizer) {
        write_out(token.text);
      } else if (!model.loaded.config.is_eos(token.id)) {
        print_out("{}{}", first ? "" : " ", token.id);
      }
      flush_output();
      first = false;
    };
  }
  const Completion result = engine.submit(std::move(request)).wait();
  if (options.json) {
    print_json(model, prompt, tokenizer.has_value(), result);
  } else {
    print_out("\n");
    flush_output();
    print_summary(model, result);
  }
  if (options.model.profile) print_profile(engine.runner().profile());
  return kExitDone;
}

}  // namespace

std::function<int()> declare_generate(Arguments& args) {
  auto options = std::make_shared<Options>();
  Option prompt =
      args.add_option("PROMPT", options->prompt, "The prompt's text; - reads standard input").type_name("");
  Option file = args.add_option("--file", options->file, "Read the prompt from a file")
                    .path()
                    .type_name("F")
                    .excludes(prompt);
  args.add_option("--ids", options->ids, "The prompt as token ids")
      .type_name("1,2,3")
      .excludes(prompt)
      .excludes(file);
  args.add_option("--max-tokens", options->max_tokens,
                  fmt::format("Most new tokens (default: {}, or what the model's positions leave)",
                              kDefaultMaxTokens))
      .integer_range(1, int64_t{1} << 24)
      .type_name("N");
  add_sampling_options(args, options->sampling);
  args.add_option("--stop", options->stops, "End before this text; may be given more than once")
      .one_at_a_time()
      .text()
      .type_name("TEXT");
  args.add_flag("--json", options->json, "Print one JSON object with text, ids and timings");
  add_model_options(args, options->model);
  add_random_model_options(args, options->model);
  add_speculate_option(args, options->model);
  args.footer(
      "Examples:\n"
      "  fulgur generate 'In the beginning God created' --max-tokens 32\n"
      "  fulgur generate '<｜User｜>One of the plums costs 9 dollars. How many dollars do 2 plums "
      "cost?<｜Assistant｜>' --json");
  return [options] { return run_generate(*options); };
}

}  // namespace fulgur::cli
