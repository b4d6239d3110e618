#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "cli/arguments.h"
#include "cli/random_options.h"
#include "fulgur/engine.h"
#include "model/load.h"
#include "runtime/memory_need.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"
#include "tokenizer/tokenizer.h"

namespace fulgur::cli {

/// The options of every command that runs a model (docs/spec/commands.md, Common).
struct ModelOptions {
  std::string model;
  int threads = 0;
  std::optional<int64_t> index_topk;
  std::string selection = "indexer";
  std::optional<uint64_t> selection_seed;
  IndexerProjection projection = IndexerProjection::kFused;
  Precision precision = Precision::kNative;
  CacheForms cache_forms;
  int64_t index_scratch_bytes = kDefaultIndexScratchBytes;
  bool profile = false;
  bool mtp = false;                  // the command runs the MTP layer too
  bool speculates = false;           // the command has --speculate
  std::optional<int64_t> speculate;  // drafts of the MTP layer at a time
  RandomOptions random;              // instead of `model`
};

void add_model_options(Arguments& args, ModelOptions& options);
/// --random-weights in place of --model, for commands that do without a tokenizer.
void add_random_model_options(Arguments& args, ModelOptions& options);
/// Those among them that say what weights and caches take in memory.
void add_precision_options(Arguments& args, Precision& precision, CacheForms& forms);
/// --speculate, of commands that write texts. By default an MTP layer that is there and intact guesses one
/// token ahead.
void add_speculate_option(Arguments& args, ModelOptions& options);

/// --model, or the bundled mini-v32: the nearest models/mini-v32 in the folders above the program, or
/// share/fulgur/models/mini-v32 beside its bin folder.
std::filesystem::path model_folder(const ModelOptions& options);

/// A model that a command is about to load, once it knows how much of the caches it needs. All that can be
/// refused without reading a weight has been.
struct FoundModel {
  std::filesystem::path folder;  // empty where the weights are drawn at random
  PlannedModel planned;
  double plan_s = 0;

  [[nodiscard]] const Config& config() const { return planned.config; }
};
FoundModel find_model(const ModelOptions& options);

/// An engine as far as it decides what memory it takes.
struct EngineSize {
  RunSize run;
  int num_drafts = 0;
  uint64_t scratch_bytes = 0;  // of its steps: memory_need() finds it
};

/// Drafts at a time that the command's engine makes.
int num_drafts(const FoundModel& found, const ModelOptions& options);
/// What an engine over it takes.
MemoryNeed memory_need(const FoundModel& found, const ModelOptions& options, EngineSize& engine);

/// A model that a command has loaded, with what stands in for its indexer.
struct OpenedModel {
  LoadedModel loaded;
  std::unique_ptr<SelectionSource> selection;  // null: the indexer's own choice
  EngineSize engine;                           // what it was opened for
  MemoryNeed memory;                           // what the process takes, predicted before it was loaded
  double load_s = 0;
};

/// Loads with a progress bar; notices go to stderr. What doesn't fit in memory for a run of this size is
/// refused before anything is allocated.
OpenedModel open_model(FoundModel found, const ModelOptions& options, const RunSize& size);
/// The same for a need that the command has found itself, of several engines say.
OpenedModel open_model(FoundModel found, const ModelOptions& options, const MemoryNeed& need,
                       const EngineSize& engine);
/// The tokenizer.json of its folder, if there is one.
std::optional<Tokenizer> open_tokenizer(const FoundModel& found);
/// The engine that the model was opened for; refers to model and tokenizer (or null).
Engine make_engine(const ModelOptions& options, const OpenedModel& model, const Tokenizer* tokenizer,
                   SchedulerOptions scheduler = {});
/// Another over the same model.
Engine make_engine(const ModelOptions& options, const OpenedModel& model, const EngineSize& engine,
                   const Tokenizer* tokenizer, SchedulerOptions scheduler = {});

/// The --profile table on stderr: cost by op.
void print_profile(const Profile& profile);

}  // namespace fulgur::cli
