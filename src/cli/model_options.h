#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "cli/arguments.h"
#include "model/load.h"
#include "runtime/session.h"
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
  bool profile = false;
};

void add_model_options(Arguments& args, ModelOptions& options);

/// --model, or the bundled mini-v32: the nearest models/mini-v32 in the folders above the program, or
/// share/fulgur/models/mini-v32 beside its bin folder.
std::filesystem::path model_folder(const ModelOptions& options);

/// A model that a command has loaded, with what stands in for its indexer.
struct OpenedModel {
  std::filesystem::path folder;
  LoadedModel loaded;
  std::unique_ptr<SelectionSource> selection;  // null: the indexer's own choice
  double load_s = 0;
};

/// Loads with a progress bar; notices go to stderr.
OpenedModel open_model(const ModelOptions& options);
/// The folder's tokenizer.json, if there is one.
std::optional<Tokenizer> open_tokenizer(const std::filesystem::path& folder);
SessionOptions session_options(const ModelOptions& options, const OpenedModel& model, int64_t cache_tokens);

/// The --profile table on stderr: cost by op.
void print_profile(const Session& session);

}  // namespace fulgur::cli
