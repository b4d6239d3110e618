// fulgur logits: the model's numbers in a safetensors file, for comparison with other implementations.

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/pending_file.h"
#include "base/text_file.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/tensor_values.h"
#include "cli/command.h"
#include "cli/logits_tensors.h"
#include "cli/progress.h"
#include "cli/token_lists.h"
#include "fulgur/engine.h"
#include "runtime/request_check.h"
#include "runtime/selection.h"

namespace fulgur::cli {
namespace {

std::string injected_name(size_t prompt, size_t layer) { return fmt::format("topk.{}.{}", prompt, layer); }

/// What of a file of injected selections is of one prompt. What is amiss is refused when it is read.
struct InjectedSize {
  int64_t width = 0;          // most positions of a row
  uint64_t stored_bytes = 0;  // which stay mapped
  uint64_t read_bytes = 0;    // positions, while the prompt runs
};

InjectedSize injected_size(const Catalog& file, const Config& config, size_t prompt) {
  InjectedSize size;
  for (size_t layer = 0; layer < config.full_indexer.size(); ++layer) {
    if (!config.full_indexer[layer]) continue;
    const CatalogEntry* entry = file.find(injected_name(prompt, layer));
    if (entry == nullptr || entry->shape.size() != 2) continue;
    size.width = std::max(size.width, entry->shape[1]);
    size.stored_bytes += entry->bytes;
    size.read_bytes +=
        static_cast<uint64_t>(entry->shape[0]) * static_cast<uint64_t>(entry->shape[1]) * sizeof(int32_t);
  }
  return size;
}

/// FILE's topk.PROMPT.LAYER for every layer that owns an indexer.
std::map<int, InjectedSelection::Rows> read_injected(const Catalog& file, const Config& config, size_t prompt,
                                                     int64_t num_tokens) {
  std::map<int, InjectedSelection::Rows> by_layer;
  for (size_t layer = 0; layer < config.full_indexer.size(); ++layer) {
    if (!config.full_indexer[layer]) continue;
    const std::string name = injected_name(prompt, layer);
    const CatalogEntry* entry = file.find(name);
    const std::string file_name = file.files.front()->file_name();
    const int64_t most_cols = std::max(config.index_topk, num_tokens);  // --selection all: [T, T]
    if (entry == nullptr) {
      throw Error(
          Problem{.kind = ErrorKind::kMissingTensor,
                  .file = file_name,
                  .tensor = name,
                  .message = fmt::format("{} is missing, so its selections can't be injected.", name),
                  .expected = fmt::format("{}, I16, I32 or I64 [{}, up to {}]", name, num_tokens, most_cols),
                  .todo = "write it with fulgur logits --topk on the same prompts"});
    }
    const auto check = [&](bool holds, const std::string& found) {
      if (holds) return;
      throw Error(Problem{
          .kind = ErrorKind::kShapeMismatch,
          .file = file_name,
          .tensor = name,
          .message = fmt::format("{} does not fit prompt {}.", name, prompt),
          .expected = fmt::format("[{}, 1..{}] of positions, ascending, none after its row, padded with -1",
                                  num_tokens, most_cols),
          .found = found,
          .todo = "use a file made for the same prompts"});
    };
    check(entry->shape.size() == 2 && entry->shape[0] == num_tokens && entry->shape[1] >= 1 &&
              entry->shape[1] <= most_cols,
          fmt::format("[{}]", fmt::join(entry->shape, ", ")));
    InjectedSelection::Rows rows{.positions = {}, .cols = entry->shape[1]};
    const std::vector<int64_t> positions = read_integers(file, *entry);
    rows.positions.reserve(positions.size());
    for (int64_t t = 0; t < num_tokens; ++t) {
      int64_t before = -1;
      bool padding = false;
      for (int64_t i = 0; i < rows.cols; ++i) {
        const int64_t position = positions[static_cast<size_t>(t * rows.cols + i)];
        padding = padding || position == -1;
        check(padding ? position == -1 && i > 0 : position > before && position <= t,
              fmt::format("position {} in row {}", position, t));
        before = position;
        rows.positions.push_back(static_cast<int32_t>(position));
      }
    }
    by_layer.emplace(static_cast<int>(layer), std::move(rows));
  }
  return by_layer;
}

std::vector<OutputTensor> run_prompt(Engine& engine, const LogitsOptions& options, size_t prompt,
                                     const std::vector<int32_t>& tokens, SelectionSource* selection,
                                     int64_t topk_cols) {
  StepRunner& runner = engine.runner();
  Recorder recorder(options, runner.config(), runner.backend(), prompt, std::ssize(tokens), topk_cols);
  runner.set_observer(&recorder);
  runner.set_selection(selection);
  const auto after_prompt = [&](const GeneratedToken&) {
    runner.set_observer(nullptr);
    if (!options.inject_topk.empty()) runner.set_selection(nullptr);  // what follows selects for itself
  };
  Request request{
      .prompt = tokens, .max_tokens = options.greedy, .ignore_end_tokens = true, .on_token = after_prompt};
  if (!options.last) {
    request.on_prompt_logits = [&](int64_t, int64_t rows, const float* logits) {
      recorder.logits(rows, logits);
    };
  }
  const Completion completion = engine.submit(std::move(request)).wait();
  runner.set_observer(nullptr);
  recorder.greedy(completion.ids);
  return recorder.take();
}

[[noreturn]] void refuse_input(const std::string& out, const std::filesystem::path& input, const char* what) {
  throw Error(Problem{.kind = ErrorKind::kBadRequest,
                      .file = out,
                      .message = fmt::format("--out names {}, which it would replace.", what),
                      .expected = "the name of another file",
                      .found = input.string(),
                      .todo = "choose another --out"});
}

/// OUT must not take the place of what it is made from.
void check_no_input(const std::string& out, const std::filesystem::path& input, const char* what) {
  std::error_code error;  // one that isn't there, or can't be looked at, is no input
  if (std::filesystem::equivalent(out, input, error)) refuse_input(out, input, what);
}

/// The same for what lies in the model's folder, and what its links lead to where it may be listed.
void check_no_file_of(const std::filesystem::path& model, const std::filesystem::path& out) {
  namespace fs = std::filesystem;
  if (model.empty()) return;  // drawn at random
  constexpr const char* kWhat = "a file of the model";
  std::error_code error;
  const fs::path folder = out.has_parent_path() ? out.parent_path() : ".";
  const bool there = fs::symlink_status(out, error).type() != fs::file_type::not_found;
  if (there && fs::equivalent(folder, model, error)) refuse_input(out, model / out.filename(), kWhat);
  for (fs::directory_iterator at(model, error), end; !error && at != end; at.increment(error))
    check_no_input(out, at->path(), kWhat);
}

/// What the tensors of one prompt take, which are written when it has run.
uint64_t results_bytes(const LogitsOptions& options, const Config& config, size_t prompt, int64_t num_tokens,
                       int64_t topk_cols) {
  uint64_t bytes = 0;
  for (const OutputTensor& tensor : output_tensors(options, config, prompt, num_tokens, topk_cols))
    bytes += tensor.size();
  return bytes;
}

/// The file, with places for the tensors of all prompts, one prompt's behind the other's.
SafetensorsWriter make_file(const LogitsOptions& options, const Config& config,
                            const std::vector<std::vector<int32_t>>& prompts,
                            const std::vector<int64_t>& topk_cols) {
  std::vector<OutputTensor> tensors;
  for (size_t i = 0; i < prompts.size(); ++i) {
    std::ranges::move(output_tensors(options, config, i, std::ssize(prompts[i]), topk_cols[i]),
                      std::back_inserter(tensors));
  }
  std::vector<TensorToPlace> places;
  places.reserve(tensors.size());
  for (const OutputTensor& tensor : tensors) {
    places.push_back(
        {tensor.name, name(tensor.dtype), tensor.shape, tensor.size(), size_bytes(tensor.dtype)});
  }
  return {options.out, places};
}

int run_logits(const LogitsOptions& options) {
  check_no_input(options.out, options.tokens, "the file of --tokens");
  check_no_input(options.out, options.inject_topk, "the file of --inject-topk");
  check_no_input(options.out, options.model.random.config, "the config of --random-weights");
  check_writable(options.out);
  const auto prompts = parse_token_lists(read_text_file(options.tokens), options.tokens);
  FoundModel found = find_model(options.model);
  check_no_file_of(found.folder, options.out);
  const Config& config = found.config();
  int64_t longest = 0;
  for (const auto& prompt : prompts) {
    check_tokens(prompt, config, /*has_tokenizer=*/!options.model.random.chosen());
    longest = std::max(longest, static_cast<int64_t>(prompt.size()));
  }
  if (longest + options.greedy > config.max_position_embeddings) {
    throw Error(Problem{
        .kind = ErrorKind::kBadRequest,
        .message = "A prompt and its continuation are longer than the model's positions.",
        .expected = fmt::format("at most max_position_embeddings = {}", config.max_position_embeddings),
        .found = options.greedy > 0 ? fmt::format("{} tokens and --greedy {}", longest, options.greedy)
                                    : fmt::format("{} tokens", longest),
        .todo = "shorten the prompt or the continuation"});
  }
  std::optional<Catalog> injected;
  InjectedSelection injection;
  if (!options.inject_topk.empty()) {
    if (!config.sparse()) throw Error(ErrorKind::kBadRequest, "--inject-topk needs a model with an indexer.");
    injected = read_safetensors(options.inject_topk);
  }

  RunSize size{.cache_tokens = longest + options.greedy,
               .prompt = longest,
               .step_tokens = options.chunk,
               .hands_out_logits = !options.last,
               .shows_scores = options.dumps("scores"),
               .shows_router = options.dumps("router"),
               .shows_mtp_logits = options.model.mtp};
  uint64_t stored = 0;
  uint64_t most_at_once = 0;
  std::vector<int64_t> topk_cols;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const InjectedSize of = injected ? injected_size(*injected, config, i) : InjectedSize{};
    size.selection_width = std::max(size.selection_width, of.width);
    topk_cols.push_back(std::max(config.index_topk, of.width));
    stored += of.stored_bytes;
    most_at_once =
        std::max(most_at_once,
                 of.read_bytes + results_bytes(options, config, i, std::ssize(prompts[i]), topk_cols.back()));
  }
  size.results_bytes = stored + most_at_once;
  SafetensorsWriter file = make_file(options, config, prompts, topk_cols);
  const OpenedModel model = open_model(std::move(found), options.model, size);
  Engine engine = make_engine(options.model, model, nullptr,
                              {.step_tokens = options.chunk, .max_running = 1, .prefix_cache = false});
  size_t written = 0;
  Progress progress("logits", "prompt");
  for (size_t i = 0; i < prompts.size(); ++i) {
    SelectionSource* selection = model.selection.get();
    if (injected) {
      injection.set({});  // before the next are there
      injection.set(
          read_injected(*injected, model.loaded.config, i, static_cast<int64_t>(prompts[i].size())));
      selection = &injection;
    }
    for (const OutputTensor& tensor : run_prompt(engine, options, i, prompts[i], selection, topk_cols[i]))
      file.write(written++, tensor.bytes);
    progress.update(i + 1, prompts.size());
  }
  file.commit();
  if (options.model.profile) print_profile(engine.runner().profile());
  return kExitDone;
}

}  // namespace

std::function<int()> declare_logits(Arguments& args) {
  auto options = std::make_shared<LogitsOptions>();
  args.add_option("--tokens", options->tokens, "JSON file: an array of token ids, or an array of such arrays")
      .required()
      .type_name("IDS.json");
  args.add_option("--out", options->out, "Where the tensors go").required().type_name("OUT.safetensors");
  args.add_flag("--last", options->last, "Logits of the last position only");
  args.add_flag("--topk", options->topk, "Also the selected positions of each layer that owns an indexer");
  args.add_option("--dump", options->dump, "Also hidden, scores, router (a comma-separated list)")
      .comma_separated()
      .one_of({"hidden", "scores", "router"});
  Option inject = args.add_option("--inject-topk", options->inject_topk,
                                  "Use this file's topk.i.L as the selections of prompt i");
  inject.type_name("FILE");
  args.add_option("--greedy", options->greedy,
                  "Also continue each prompt by N tokens, end tokens not honoured")
      .integer_range(1, int64_t{1} << 24)
      .type_name("N");
  args.add_option("--chunk", options->chunk, "Prefill this many tokens at a time (default: 512)")
      .integer_range(1, EngineLimits::kStepTokens)
      .type_name("C");
  args.add_flag("--mtp", options->model.mtp, "Also the logits of the layer for multi-token prediction");
  add_model_options(args, options->model);
  add_random_model_options(args, options->model);
  inject.excludes(args.get_option("--selection"));
  args.footer(
      "Examples:\n"
      "  echo '[0, 86, 74, 21]' >ids.json && fulgur logits --tokens ids.json --out out.safetensors --topk\n"
      "  fulgur logits --tokens ids.json --out out.safetensors --last --greedy 8 --precision full");
  return [options] { return run_logits(*options); };
}

}  // namespace fulgur::cli
