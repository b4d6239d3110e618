// fulgur logits: the model's numbers in a safetensors file, for comparison with other implementations.

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/pending_file.h"
#include "base/text_file.h"
#include "checkpoint/safetensors_writer.h"
#include "checkpoint/tensor_values.h"
#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/progress.h"
#include "cli/token_lists.h"
#include "fulgur/engine.h"
#include "ops/backend.h"
#include "runtime/selection.h"

namespace fulgur::cli {
namespace {

struct Options {
  ModelOptions model;
  std::string tokens;
  std::string out;
  bool last = false;
  bool topk = false;
  std::vector<std::string> dump;
  std::string inject_topk;
  int64_t greedy = 0;
  int64_t chunk = 512;

  [[nodiscard]] bool dumps(std::string_view what) const {
    return std::ranges::find(dump, what) != dump.end();
  }
};

struct OutputTensor {
  std::string name;
  DType dtype{};
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};

template <typename T>
OutputTensor make_tensor(std::string name, DType dtype, std::vector<int64_t> shape,
                         const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const std::byte*>(values.data());
  return {std::move(name), dtype, std::move(shape), {bytes, bytes + values.size() * sizeof(T)}};
}

/// Collects what one prompt's steps compute, row after row; of the MTP layer, behind the others, what it
/// leaves in the residual stream.
class Recorder : public StepObserver {
 public:
  /// `topk_cols`: the most positions of a row.
  Recorder(const Options& options, const StepRunner& runner, int64_t num_tokens, int64_t topk_cols)
      : options_(options),
        backend_(runner.backend()),
        mtp_layer_(static_cast<int>(runner.config().num_hidden_layers)),
        hidden_size_(runner.config().hidden_size),
        vocab_size_(runner.config().vocab_size),
        num_tokens_(num_tokens),
        topk_cols_(topk_cols) {}

  [[nodiscard]] bool wants_scores() const override { return options_.dumps("scores"); }
  [[nodiscard]] bool wants_router() const override { return options_.dumps("router"); }
  [[nodiscard]] bool wants_mtp_logits() const override { return options_.model.mtp; }

  /// Of the prompt's next positions.
  void logits(int64_t rows, const float* logits) {
    logits_.insert(logits_.end(), logits, logits + rows * vocab_size_);
  }
  void drawn_from(Matrix<const float> logits) override {
    if (options_.last) logits_ = fetch(logits, logits.cols);
  }
  void mtp_logits(Matrix<const float> logits) override { append(mtp_logits_, fetch(logits, logits.cols)); }

  void hidden(int layer, const Residual& residual) override {
    if (!options_.dumps("hidden")) return;
    std::vector<float>& rows = hidden_[layer];
    const std::vector<float> sum = fetch(residual.sum, residual.sum.cols);
    const std::vector<float> delta = fetch(residual.delta, residual.delta.cols);
    std::ranges::transform(sum, delta, std::back_inserter(rows), std::plus());
  }
  void scores(int layer, Matrix<const float> scores) override {
    if (layer == mtp_layer_) return;
    for (int64_t t = 0; t < scores.rows; ++t) {
      std::vector<float> row = fetch(Matrix<const float>(scores.row(t), 1, scores.cols), scores.cols);
      row.resize(static_cast<size_t>(num_tokens_), 0.0F);
      append(scores_[layer], row);
    }
  }
  void selected(int layer, Matrix<const int32_t> selected) override {
    if (!options_.topk || layer == mtp_layer_) return;
    if (options_.model.selection != "all") {
      for (int64_t t = 0; t < selected.rows; ++t) {
        std::vector<int32_t> row =
            fetch(Matrix<const int32_t>(selected.row(t), 1, selected.cols), selected.cols);
        row.resize(static_cast<size_t>(std::min(topk_cols_, num_tokens_)), -1);
        append(selected_[layer], row);
      }
      return;
    }
    std::vector<int32_t>& rows = selected_[layer];
    for (int64_t i = 0; i < selected.rows; ++i) {
      const auto position = static_cast<int64_t>(rows.size()) / num_tokens_;
      for (int64_t s = 0; s < num_tokens_; ++s) rows.push_back(s <= position ? static_cast<int32_t>(s) : -1);
    }
  }
  void router(int layer, Matrix<const int32_t> experts, Matrix<const float> weights) override {
    if (layer == mtp_layer_) return;
    append(experts_[layer], fetch(experts, experts.cols));
    append(weights_[layer], fetch(weights, weights.cols));
  }

  void write_to(std::vector<OutputTensor>& out, size_t prompt) const {
    out.push_back(make_tensor(fmt::format("logits.{}", prompt), DType::kF32,
                              {options_.last ? 1 : num_tokens_, vocab_size_}, logits_));
    const auto tensor = [&](const char* what, DType dtype, const auto& by_layer) {
      for (const auto& [layer, values] : by_layer) {
        if (layer == mtp_layer_) continue;
        const auto cols = static_cast<int64_t>(values.size()) / num_tokens_;
        out.push_back(
            make_tensor(fmt::format("{}.{}.{}", what, prompt, layer), dtype, {num_tokens_, cols}, values));
      }
    };
    tensor("hidden", DType::kF32, hidden_);
    tensor("scores", DType::kF32, scores_);
    tensor("topk", DType::kI32, selected_);
    tensor("router_experts", DType::kI32, experts_);
    tensor("router_weights", DType::kF32, weights_);
    if (!options_.model.mtp) return;
    if (options_.dumps("hidden")) {
      const auto mtp = hidden_.find(mtp_layer_);
      out.push_back(make_tensor(fmt::format("mtp_hidden.{}", prompt), DType::kF32,
                                {num_tokens_ - 1, hidden_size_},
                                mtp == hidden_.end() ? std::vector<float>() : mtp->second));
    }
    out.push_back(make_tensor(fmt::format("mtp_logits.{}", prompt), DType::kF32,
                              {num_tokens_ - 1, vocab_size_}, mtp_logits_));
  }

 private:
  /// The first `cols` columns of a back-end matrix.
  template <typename T>
  std::vector<std::remove_const_t<T>> fetch(Matrix<T> matrix, int64_t cols) const {
    std::vector<std::remove_const_t<T>> values(static_cast<size_t>(matrix.rows * cols));
    for (int64_t r = 0; r < matrix.rows; ++r) {
      backend_.download(values.data() + r * cols, matrix.row(r), static_cast<size_t>(cols) * sizeof(T));
    }
    return values;
  }
  template <typename T>
  static void append(std::vector<T>& to, const std::vector<T>& values) {
    to.insert(to.end(), values.begin(), values.end());
  }

  const Options& options_;
  const Backend& backend_;
  int mtp_layer_;
  int64_t hidden_size_;
  int64_t vocab_size_;
  int64_t num_tokens_;
  int64_t topk_cols_;
  std::vector<float> logits_;
  std::vector<float> mtp_logits_;
  std::map<int, std::vector<float>> hidden_;
  std::map<int, std::vector<float>> scores_;
  std::map<int, std::vector<int32_t>> selected_;
  std::map<int, std::vector<int32_t>> experts_;
  std::map<int, std::vector<float>> weights_;
};

/// FILE's topk.PROMPT.LAYER for every layer that owns an indexer.
std::map<int, InjectedSelection::Rows> read_injected(const Catalog& file, const Config& config, size_t prompt,
                                                     int64_t num_tokens) {
  std::map<int, InjectedSelection::Rows> by_layer;
  for (size_t layer = 0; layer < config.full_indexer.size(); ++layer) {
    if (!config.full_indexer[layer]) continue;
    const std::string name = fmt::format("topk.{}.{}", prompt, layer);
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

void run_prompt(Engine& engine, const Options& options, size_t prompt, const std::vector<int32_t>& tokens,
                SelectionSource* selection, std::vector<OutputTensor>& out) {
  StepRunner& runner = engine.runner();
  const int64_t index_topk = runner.config().index_topk;
  Recorder recorder(options, runner, static_cast<int64_t>(tokens.size()),
                    selection == nullptr ? index_topk : selection->width(index_topk));
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
  recorder.write_to(out, prompt);
  if (options.greedy == 0) return;
  out.push_back(make_tensor(fmt::format("greedy.{}", prompt), DType::kI64, {options.greedy},
                            std::vector<int64_t>(completion.ids.begin(), completion.ids.end())));
}

/// OUT must not take the place of what it is made from.
void check_no_input(const std::string& out, const std::filesystem::path& input, const char* what) {
  std::error_code error;  // one that isn't there is no input
  if (!std::filesystem::equivalent(out, input, error)) return;
  throw Error(Problem{.kind = ErrorKind::kBadRequest,
                      .file = out,
                      .message = fmt::format("--out names {}, which it would replace.", what),
                      .expected = "the name of another file",
                      .found = input.string(),
                      .todo = "choose another --out"});
}

void check_no_file_of(const std::filesystem::path& model, const std::string& out) {
  if (model.empty()) return;  // drawn at random
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    if (entry.is_regular_file()) check_no_input(out, entry.path(), "a file of the model");
  }
}

int run_logits(const Options& options) {
  check_no_input(options.out, options.tokens, "the file of --tokens");
  check_no_input(options.out, options.inject_topk, "the file of --inject-topk");
  check_no_input(options.out, options.model.random.config, "the config of --random-weights");
  check_writable(options.out);
  const auto prompts = parse_token_lists(read_text_file(options.tokens), options.tokens);
  FoundModel found = find_model(options.model);
  check_no_file_of(found.folder, options.out);
  const Config& config = found.config();
  int64_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, static_cast<int64_t>(prompt.size()));
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

  const OpenedModel model = open_model(std::move(found), options.model,
                                       {.cache_tokens = longest + options.greedy,
                                        .step_tokens = options.chunk,
                                        .prompt_logits = options.chunk});
  Engine engine = make_engine(options.model, model, nullptr,
                              {.step_tokens = options.chunk, .max_running = 1, .prefix_cache = false});
  std::vector<OutputTensor> out;
  Progress progress("logits", "prompt");
  for (size_t i = 0; i < prompts.size(); ++i) {
    SelectionSource* selection = model.selection.get();
    if (injected) {
      injection.set(
          read_injected(*injected, model.loaded.config, i, static_cast<int64_t>(prompts[i].size())));
      selection = &injection;
    }
    run_prompt(engine, options, i, prompts[i], selection, out);
    progress.update(i + 1, prompts.size());
  }
  std::vector<TensorToWrite> tensors;
  for (const OutputTensor& tensor : out)
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape, tensor.bytes});
  write_safetensors(options.out, std::move(tensors));
  if (options.model.profile) print_profile(engine.runner().profile());
  return kExitDone;
}

}  // namespace

std::function<int()> declare_logits(Arguments& args) {
  auto options = std::make_shared<Options>();
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
