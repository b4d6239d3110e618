#include "cli/model_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/byte_size.h"
#include "cli/progress.h"
#include "cli/streams.h"
#include "cli/threads_option.h"
#include "model/config_sections.h"
#include "runtime/choose_backend.h"
#include "runtime/memory_need.h"
#include "runtime/selection.h"

namespace fulgur::cli {
namespace {

constexpr const char* kBundledModel = "models/mini-v32";

const std::map<std::string, IndexerProjection> kProjections = {{"separate", IndexerProjection::kSeparate},
                                                               {"overlapped", IndexerProjection::kOverlapped},
                                                               {"fused", IndexerProjection::kFused}};
const std::map<std::string, Precision> kPrecisions = {{"native", Precision::kNative},
                                                      {"full", Precision::kFull}};

const std::map<std::string, CacheForm> kCacheForms = {
    {"bf16", CacheForm::kBf16}, {"fp8", CacheForm::kFp8}, {"f32", CacheForm::kF32}};

/// An option that takes one of the names.
template <typename T>
void add_choice(Arguments& args, const std::string& name, T& value, const std::map<std::string, T>& choices,
                const std::string& help, const std::string& group) {
  std::vector<std::string> names;
  for (const auto& [choice, meaning] : choices) names.push_back(choice);
  args.add_option(
          name, [&value, &choices](const std::string& text) { value = choices.at(text); }, help)
      .one_of(names)
      .group(group);
}

ModelFiles read_files(const ModelOptions& options, const std::filesystem::path& folder) {
  return options.random.chosen() ? read_model_files(random_weights(options.random))
                                 : read_model_files(folder);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::unique_ptr<SelectionSource> make_selection(const ModelOptions& options) {
  if (options.selection == "recent") return std::make_unique<RecentSelection>();
  if (options.selection == "random")
    return std::make_unique<RandomSelection>(options.selection_seed.value_or(0));
  if (options.selection == "all") return std::make_unique<EverythingSelection>();
  return nullptr;
}

}  // namespace

void add_model_options(Arguments& args, ModelOptions& options) {
  const char* group = "Model";
  args.add_option("--model", options.model, "Folder of the checkpoint (default: the bundled mini-v32)")
      .path()
      .type_name("DIR")
      .group(group);
  add_threads_option(args, options.threads, "Threads to compute on (default: one for each CPU it may use)")
      .group(group);
  args.add_option("--index-topk", options.index_topk,
                  "Tokens that attention may read, instead of the config's index_topk")
      .integer_range(kSizeRange.least, kSizeRange.most)
      .type_name("K")
      .group(group);
  args.add_option("--selection", options.selection, "What chooses those tokens (default: indexer)")
      .one_of({"indexer", "recent", "random", "all"})
      .group(group);
  args.add_option("--selection-seed", options.selection_seed, "Seed of --selection random (default: 0)")
      .seed()
      .type_name("S")
      .group(group);
  add_choice(args, "--indexer-projection", options.projection, kProjections,
             "How wk and weights_proj run (default: fused)", group);
  add_precision_options(args, options.precision, options.cache_forms);
  args.add_option(
          "--index-scratch",
          [&options](const std::string& text) {
            options.index_scratch_bytes = static_cast<int64_t>(parse_byte_size(text).value());
          },
          "Memory for index scores, whatever the context, such as 16MiB; changes no result (default: 64MiB)")
      .byte_size()
      .type_name("SIZE")
      .group(group);
  args.add_flag("--profile", options.profile, "Print the cost of each op to stderr").group(group);
  args.finally([&options] {
    if (options.selection_seed && options.selection != "random") {
      usage_error("--selection-seed", "is for --selection random alone");
    }
  });
}

void add_random_model_options(Arguments& args, ModelOptions& options) {
  const Option folder = args.get_option("--model");
  add_random_options(args, options.random, &folder);
}

void add_precision_options(Arguments& args, Precision& precision, CacheForms& forms) {
  const char* group = "Model";
  add_choice(
      args, "--precision", precision, kPrecisions,
      "native: weights as stored, bf16 activations and caches; full: everything in f32 (default: native)",
      group);
  add_choice(args, "--kv-dtype", forms.latents, kCacheForms,
             "What the caches hold latents as (default: bf16, f32 in full precision)", group);
  add_choice(args, "--index-dtype", forms.index_keys, kCacheForms,
             "What they hold the indexer's keys as (default: the same)", group);
}

void add_speculate_option(Arguments& args, ModelOptions& options) {
  options.speculates = true;
  args.add_option("--speculate", options.speculate,
                  "Tokens that the MTP layer guesses ahead; the text is the same (default: 1 where the model "
                  "has that layer; 0: none)")
      .integer_range(0, EngineLimits::kDrafts)
      .type_name("N")
      .group("Model");
}

std::filesystem::path model_folder(const ModelOptions& options) {
  if (!options.model.empty()) return options.model;
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  for (std::filesystem::path at = program.parent_path(); at != at.parent_path(); at = at.parent_path()) {
    for (const std::filesystem::path& folder : {at / kBundledModel, at / "share/fulgur" / kBundledModel}) {
      if (std::filesystem::exists(folder / "config.json", error)) return folder;
    }
  }
  throw Error(Problem{.kind = ErrorKind::kIoError,
                      .message = "The bundled model mini-v32 is not beside this program.",
                      .expected = program.empty()
                                      ? "a readable /proc/self/exe, which says where the program is"
                                      : "models/mini-v32 in a folder above " + program.string(),
                      .todo = "name a checkpoint with --model DIR"});
}

FoundModel find_model(const ModelOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  FoundModel found;
  if (options.random.chosen()) {  // its weights, before so much as their names are listed
    const bool with_mtp =
        options.mtp || (options.speculates && options.speculate.value_or(kDefaultDrafts) > 0);
    check_fits({.weights = random_weight_bytes(random_weights(options.random), options.precision, with_mtp)});
  } else {
    found.folder = model_folder(options);
  }
  found.planned = plan_loading(read_files(options, found.folder),
                               {.precision = options.precision,
                                .mtp = options.mtp || options.speculate.value_or(0) > 0,
                                .mtp_if_intact = options.speculates && !options.speculate});
  Config& config = found.planned.config;
  if (options.index_topk) override_index_topk(config, *options.index_topk);
  if (!config.sparse() && options.selection != "indexer") {
    throw Error(
        Problem{.kind = ErrorKind::kBadRequest,
                .message = fmt::format("--selection {} needs a model with an indexer.", options.selection),
                .found = fmt::format("model_type {}", name(config.model_type)),
                .todo = "leave --selection away, or choose a deepseek_v32 or glm_moe_dsa model"});
  }
  check_index_scratch(options.index_scratch_bytes, config, num_threads(options.threads), choose_backend());
  (void)cache_dtypes(options.cache_forms, config, options.precision, choose_backend());
  found.plan_s = seconds_since(start);
  return found;
}

namespace {

RunnerOptions runner_options(const ModelOptions& options, int num_drafts) {
  return {.threads = num_threads(options.threads),
          .precision = options.precision,
          .projection = options.projection,
          .cache_forms = options.cache_forms,
          .index_scratch_bytes = options.index_scratch_bytes,
          .mtp = options.mtp,
          .num_drafts = num_drafts,
          .profile = options.profile};
}

void log_memory(const MemoryNeed& need) {
  const auto mb = [](uint64_t bytes) { return fmt::format("{:.1f} MB", static_cast<double>(bytes) / 1e6); };
  log_detail(fmt::format(
      "memory: {} predicted: weights {} mapped and {} copied from {}, latents {}, index keys {}, tables "
      "{}, steps {}, "
      "the program itself {}",
      mb(need.total()), mb(need.weights.mapped), mb(need.weights.copied), mb(need.weights.sources),
      mb(need.latents), mb(need.index_keys), mb(need.tables), mb(need.scratch + need.host),
      mb(need.stacks + need.process)));
}

}  // namespace

int num_drafts(const FoundModel& found, const ModelOptions& options) {
  const bool drafts = options.speculates && found.planned.plan.mtp;
  return drafts ? static_cast<int>(options.speculate.value_or(kDefaultDrafts)) : 0;
}

MemoryNeed memory_need(const FoundModel& found, const ModelOptions& options, EngineSize& engine) {
  const std::unique_ptr<SelectionSource> selection = make_selection(options);
  RunnerOptions runner = runner_options(options, engine.num_drafts);
  runner.selection = selection.get();
  const MemoryNeed need =
      memory_need(found.config(), found.planned.plan, found.planned.catalog, runner, engine.run);
  engine.scratch_bytes = need.scratch;
  return need;
}

OpenedModel open_model(FoundModel found, const ModelOptions& options, const RunSize& size) {
  EngineSize engine{.run = size, .num_drafts = num_drafts(found, options)};
  const MemoryNeed need = memory_need(found, options, engine);
  return open_model(std::move(found), options, need, engine);
}

OpenedModel open_model(FoundModel found, const ModelOptions& options, const MemoryNeed& need,
                       const EngineSize& engine) {
  const auto start = std::chrono::steady_clock::now();
  const double plan_s = found.plan_s;
  const std::string name = found.planned.name;
  OpenedModel opened{.selection = make_selection(options), .engine = engine, .memory = need};
  check_fits(opened.memory);
  log_memory(opened.memory);
  {
    Progress progress("loading", "B");
    opened.loaded = load(std::move(found.planned), num_threads(options.threads),
                         [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  }
  for (const std::string& notice : opened.loaded.notices) log_notice(notice);
  opened.load_s = plan_s + seconds_since(start);
  const LoadedWeights& memory = opened.loaded.memory;
  log_detail(
      fmt::format("{}: {} parameters, {:.1f} MB mapped from {} file{} and {:.1f} MB copied, in {:.0f} ms",
                  name, memory.weights.size(), static_cast<double>(memory.mapped_bytes) / 1e6,
                  memory.files.size(), memory.files.size() == 1 ? "" : "s",
                  static_cast<double>(memory.copied_bytes) / 1e6, 1000 * opened.load_s));
  return opened;
}

std::optional<Tokenizer> open_tokenizer(const FoundModel& found) {
  return found.folder.empty() ? std::nullopt : Tokenizer::load_if_present(found.folder);
}

Engine make_engine(const ModelOptions& options, const OpenedModel& model, const Tokenizer* tokenizer,
                   SchedulerOptions scheduler) {
  return make_engine(options, model, model.engine, tokenizer, scheduler);
}

Engine make_engine(const ModelOptions& options, const OpenedModel& model, const EngineSize& engine,
                   const Tokenizer* tokenizer, SchedulerOptions scheduler) {
  scheduler.num_pages = static_cast<int>(engine.run.num_pages());
  RunnerOptions runner = runner_options(options, engine.num_drafts);
  runner.num_pages = scheduler.num_pages;
  runner.selection = model.selection.get();
  runner.scratch_bytes = engine.scratch_bytes;
  runner.host_logits_rows = engine.run.host_logits_rows();
  return {model.loaded, tokenizer, runner, scheduler};
}

void print_profile(const Profile& profile) {
  std::vector<OpKind> kinds;
  std::chrono::nanoseconds total{0};
  for (size_t i = 0; i < kNumOpKinds; ++i) {
    const auto kind = static_cast<OpKind>(i);
    if (profile.line(kind).calls > 0) kinds.push_back(kind);
    total += profile.line(kind).time;
  }
  std::ranges::sort(kinds, std::greater(), [&](OpKind kind) { return profile.line(kind).time; });
  print_log("{:<16} {:>9} {:>11} {:>11} {:>7}\n", "op", "calls", "total ms", "us a call", "share");
  for (const OpKind kind : kinds) {
    const Profile::Line& line = profile.line(kind);
    const double ms = std::chrono::duration<double, std::milli>(line.time).count();
    print_log("{:<16} {:>9} {:>11.2f} {:>11.2f} {:>6.1f}%\n", name(kind), line.calls, ms,
              1000 * ms / static_cast<double>(line.calls),
              100 * ms / std::chrono::duration<double, std::milli>(total).count());
  }
}

}  // namespace fulgur::cli
