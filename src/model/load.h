#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/catalog.h"
#include "checkpoint/load_plan.h"
#include "model/config.h"
#include "model/weights.h"

namespace fulgur {

/// How a checkpoint fills a model: its parameters, the slots they are for, and what is done to get there.
struct ModelPlan {
  std::unique_ptr<ModelWeights> weights;  // sized, not filled
  std::vector<Parameter> parameters;      // of the main model, then of the MTP layer
  size_t num_main = 0;                    // how many are the main model's
  std::vector<Weight*> slots;             // parallel to `parameters`, into `weights`
  LoadPlan load;                          // parallel to `parameters`; with all problems
  bool mtp = false;                       // the MTP layer's are among them
  std::vector<std::string> notices;
};

/// Never throws: everything that is wrong is in the plan. The MTP layer is planned `with_mtp` where the
/// config asks for one and any of its tensors is there, and what is wrong with it is a problem; else it is
/// left out and what is wrong with it is a notice (docs/spec/checkpoints.md, section 3.10).
ModelPlan plan_model(const Config& config, Precision precision, const Catalog& catalog, bool with_mtp,
                     std::span<const WeightForm> readable_forms = kAllForms);

/// What a checkpoint folder holds before anything is made of it.
struct ModelFiles {
  std::string name;                   // of the folder, or what stands for it
  std::optional<Config> config;       // empty where a problem says why; else enough to plan (ConfigSurvey)
  bool quantization_unknown = false;  // ConfigSurvey
  std::optional<Catalog> catalog;     // empty like config; where it is damaged, what can be read of it
  std::vector<Problem> problems;      // of both together
};

/// Reads the config and every header. Never throws: everything that is wrong is in the result.
ModelFiles read_model_files(const std::filesystem::path& folder);

/// Plans them, damaged or not, where there are both config and catalog. What is wrong with the plan is added
/// to the files' problems, but for what may follow from a quantization that isn't known: everything that is
/// wrong stands there then.
std::optional<ModelPlan> plan_files(ModelFiles& files, Precision precision, bool with_mtp);

struct LoadedModel {
  Config config;
  ModelWeights weights;  // views of `memory`
  LoadedWeights memory;
  std::vector<std::string> notices;  // each a sentence for the user
};

struct LoadOptions {
  Precision precision = Precision::kNative;
  bool mtp = false;            // the MTP layer too; a model without one, or with a damaged one, is refused
  bool mtp_if_intact = false;  // the MTP layer too, where there is one without problems, also in its scales
};

/// A model that is about to be loaded.
struct PlannedModel {
  std::string name;
  Config config;
  Catalog catalog;
  ModelPlan plan;  // without problems
};

/// Throws an Error with every structural problem, before a byte of weights is read.
PlannedModel plan_loading(ModelFiles files, const LoadOptions& options);
LoadedModel load(PlannedModel planned, int num_threads, const LoadProgress& progress = nullptr);

/// Both for a checkpoint folder.
LoadedModel load_model(const std::filesystem::path& folder, const LoadOptions& options, int num_threads,
                       const LoadProgress& progress = nullptr);
LoadedModel load_model(const std::filesystem::path& folder, Precision precision, int num_threads,
                       const LoadProgress& progress = nullptr);

}  // namespace fulgur
