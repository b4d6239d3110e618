#include "model/load.h"

#include <fmt/format.h>
#include <malloc.h>

#include <algorithm>
#include <iterator>
#include <new>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/printable.h"
#include "checkpoint/ledger.h"
#include "checkpoint/load_scales.h"
#include "checkpoint/load_team.h"
#include "model/excess_experts.h"

namespace fulgur {
namespace {

constexpr std::string_view kIndexerTensors = "model.layers.*.self_attn.indexer.**";
constexpr std::string_view kExpertTensors = "model.layers.*.mlp.experts.**";

/// docs/spec/checkpoints.md, section 3.9: a model with an indexer must not run dense because of its name.
std::optional<Problem> refuse_indexer_of_dense_model(const Config& config, const Catalog& catalog) {
  if (config.sparse()) return std::nullopt;
  const CatalogEntry* first = nullptr;
  int64_t count = 0;
  for (const CatalogEntry& entry : catalog.entries) {
    if (!matches_pattern(entry.name, kIndexerTensors)) continue;
    if (count++ == 0) first = &entry;
  }
  if (first == nullptr) return std::nullopt;
  return Problem{
      .kind = ErrorKind::kBadConfig,
      .file = "config.json",
      .tensor = "model_type",
      .message = fmt::format("model_type is \"{}\", which has no indexer, but the checkpoint holds {} "
                             "indexer tensors, the first being {}.",
                             name(config.model_type), count, printable(first->name)),
      .expected = fmt::format("\"{}\" or \"{}\"", name(ModelType::kDeepseekV32), name(ModelType::kGlmMoeDsa)),
      .found = fmt::format("\"{}\"", name(config.model_type)),
      .todo = "use the config.json that belongs to this checkpoint"};
}

/// The checkpoint's tensors of one layer, but for those that any layer may hold unused.
bool holds_layer(const Catalog& catalog, const std::string& prefix, const std::vector<IgnoreRule>& rules) {
  return std::any_of(catalog.entries.begin(), catalog.entries.end(), [&](const CatalogEntry& entry) {
    return entry.name.starts_with(prefix) &&
           std::none_of(rules.begin(), rules.end(),
                        [&](const IgnoreRule& rule) { return matches_pattern(entry.name, rule.pattern); });
  });
}

void append(ModelPlan& plan, std::vector<Slot> slots) {
  for (Slot& slot : slots) {
    plan.parameters.push_back(std::move(slot.parameter));
    plan.slots.push_back(slot.weight);
  }
}

/// Adds the MTP layer's parameters to a plan that holds the main model's; `prefix` begins its tensors' names.
void append_mtp(ModelPlan& plan, const Config& config, Precision precision, const Catalog& catalog,
                const std::string& prefix) {
  append(plan,
         mtp_slots(config, precision, *plan.weights, catalog.find(prefix + "embed_tokens.weight") != nullptr,
                   catalog.find(prefix + "shared_head.head.weight") != nullptr));
}

LoadPlan resolve_for(const Config& config, std::span<const Parameter> parameters,
                     std::span<const IgnoreRule> rules, const Catalog& catalog,
                     std::span<const WeightForm> readable_forms = kAllForms) {
  return resolve(parameters, rules, catalog, config.quantization ? config.quantization->fp8 : Fp8Scheme{},
                 readable_forms);
}

/// The notice that the layer is left out for these problems, of which there is one at least.
std::string left_out(const Config& config, const std::vector<Problem>& problems) {
  const size_t others = problems.size() - 1;
  return fmt::format(
      "The layer for multi-token prediction (model.layers.{}) is damaged and left out: {}{}",
      config.num_hidden_layers, problems.front().message,
      others == 0 ? "" : fmt::format(" ({} more problem{} there.)", others, others == 1 ? "" : "s"));
}

/// How the names of the MTP layer's tensors begin.
std::string mtp_prefix(const Config& config) {
  return fmt::format("model.layers.{}.", config.num_hidden_layers);
}

/// Plans the layer only to say, in a notice, what is wrong with it.
void notice_damage(ModelPlan& plan, const Config& config, Precision precision, const Catalog& catalog,
                   const std::string& prefix) {
  ModelPlan whole{.weights = std::make_unique<ModelWeights>()};
  append(whole, main_slots(config, precision, *whole.weights));
  append_mtp(whole, config, precision, catalog, prefix);
  whole.load = resolve_for(config, whole.parameters, ignore_rules(config, /*with_mtp=*/true), catalog);
  std::erase_if(whole.load.problems,
                [&](const Problem& problem) { return !problem.tensor.starts_with(prefix); });
  if (whole.load.problems.empty()) return;
  plan.notices.push_back(left_out(config, whole.load.problems));
}

/// The tensors of modules that are made into one matrix with others, and of which, in whatever form, there is
/// nothing where there is something of the others.
std::set<std::string_view> absent_halves(const ModelPlan& plan, const Catalog& catalog) {
  std::set<std::string_view> modules;
  for (const CatalogEntry& entry : catalog.entries) modules.insert(split_last(entry.name).first);
  std::set<std::string_view> absent;
  for (const Parameter& parameter : plan.parameters) {
    for (const std::vector<Part>& parts : parameter.spellings) {
      const auto stored = [&](const Part& part) { return modules.contains(split_last(part.tensor).first); };
      if (std::none_of(parts.begin(), parts.end(), stored)) continue;
      for (const Part& part : parts) {
        if (!stored(part)) absent.insert(part.tensor);
      }
    }
  }
  return absent;
}

/// Where it isn't known how modules are quantized, those that may be can be stored in any way: nothing is
/// said of them but that a weight which isn't packed has another shape, and that half a pair isn't there.
void erase_what_may_follow(std::vector<Problem>& problems, const ModelPlan& plan, const Catalog& catalog) {
  std::set<std::string_view> quantizable;
  for (const Parameter& parameter : plan.parameters) {
    if (!parameter.quantizable) continue;
    for (const std::vector<Part>& parts : parameter.spellings) {
      for (const Part& part : parts) quantizable.insert(split_last(part.tensor).first);
    }
  }
  const std::set<std::string_view> halves = absent_halves(plan, catalog);
  std::erase_if(problems, [&](const Problem& problem) {
    if (problem.kind == ErrorKind::kMissingTensor && halves.contains(problem.tensor)) return false;
    const auto [module, last] = split_last(problem.tensor);
    if (!quantizable.contains(module)) {  // an expert behind those that were planned (ExcessExperts)
      return problem.kind == ErrorKind::kMissingTensor && matches_pattern(problem.tensor, kExpertTensors);
    }
    const CatalogEntry* weight = last == "weight" ? catalog.find(problem.tensor) : nullptr;
    const bool unpacked = weight != nullptr && weight->dtype_known &&
                          (plain_form(weight->dtype) || weight->dtype == DType::kF8E4M3);
    return problem.kind != ErrorKind::kShapeMismatch || !unpacked;
  });
}

/// What is wrong with the values of the MTP layer's scales, which loading would refuse.
std::vector<Problem> bad_mtp_scales(const Config& config, const ModelPlan& plan, const Catalog& catalog) {
  if (!catalog.entries.empty() && catalog.entries.front().drawn) return {};  // none is ever bad
  LoadPlan layer;
  layer.parameters.assign(plan.load.parameters.begin() + static_cast<std::ptrdiff_t>(plan.num_main),
                          plan.load.parameters.end());
  const std::string prefix = mtp_prefix(config);
  std::ranges::copy_if(plan.load.activations, std::back_inserter(layer.activations), [&](int entry) {
    return catalog.entries[static_cast<size_t>(entry)].name.starts_with(prefix);
  });
  LoadedWeights memory;
  LoadTeam team(/*num_threads=*/1, scale_bytes(layer, catalog), nullptr);
  try {
    load_scales(layer, catalog, team, memory);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kBadScale) throw;
    return error.problems();
  }
  return {};
}

Problem without_mtp(const ModelFiles& files) {
  const int64_t layer = files.config->num_hidden_layers;
  return {.kind = ErrorKind::kBadRequest,
          .message = "This model has no layer for multi-token prediction.",
          .expected = fmt::format("num_nextn_predict_layers = 1 in config.json, and model.layers.{}", layer),
          .found = files.config->num_nextn_predict_layers == 0
                       ? std::string("num_nextn_predict_layers = 0")
                       : fmt::format("no tensor of model.layers.{}", layer),
          .todo = "choose a model that has one, or do without its drafts"};
}

}  // namespace

ModelPlan plan_model(const Config& config, Precision precision, const Catalog& catalog, bool with_mtp,
                     std::span<const WeightForm> readable_forms) {
  if (const std::optional<ExcessExperts> excess = excess_experts(config, catalog)) {
    Config fewer = config;
    fewer.n_routed_experts = excess->planned;
    ModelPlan plan = plan_model(fewer, precision, catalog, with_mtp, readable_forms);
    std::vector<Problem>& problems = plan.load.problems;
    problems.insert(problems.begin(), excess->problems.begin(), excess->problems.end());
    return plan;
  }

  ModelPlan plan{.weights = std::make_unique<ModelWeights>(), .notices = catalog.notices};
  append(plan, main_slots(config, precision, *plan.weights));
  plan.num_main = plan.parameters.size();
  const std::string prefix = mtp_prefix(config);
  if (config.num_nextn_predict_layers > 0) {
    if (!holds_layer(catalog, prefix, ignore_rules(config, /*with_mtp=*/true))) {
      if (!catalog.gaps.may_hold(prefix + "enorm.weight")) {
        plan.notices.push_back(fmt::format(
            "The checkpoint has no tensor of model.layers.{}: multi-token prediction is not available.",
            config.num_hidden_layers));
      }
    } else if (with_mtp) {
      plan.mtp = true;
      append_mtp(plan, config, precision, catalog, prefix);
    } else {
      notice_damage(plan, config, precision, catalog, prefix);
    }
  }
  std::vector<IgnoreRule> rules = ignore_rules(config, plan.mtp);
  const std::optional<Problem> dense_with_indexer = refuse_indexer_of_dense_model(config, catalog);
  if (dense_with_indexer) rules.push_back({"indexer of a model without one", std::string(kIndexerTensors)});
  plan.load = resolve_for(config, plan.parameters, rules, catalog, readable_forms);
  if (dense_with_indexer) plan.load.problems.insert(plan.load.problems.begin(), *dense_with_indexer);
  return plan;
}

ModelFiles read_model_files(const std::filesystem::path& folder) {
  ModelFiles files{.name = folder.string()};
  const auto keep = [&](const Error& error) {
    files.problems.insert(files.problems.end(), error.problems().begin(), error.problems().end());
  };
  bool no_config = false;
  try {
    ConfigSurvey survey = survey_config(folder);
    files.config = std::move(survey.config);
    files.quantization_unknown = survey.quantization_unknown;
    files.problems = std::move(survey.problems);
  } catch (const Error& error) {
    keep(error);
    no_config = error.kind() == ErrorKind::kIoError;
    std::error_code none;
    if (!std::filesystem::is_directory(folder, none)) return files;
  }
  try {
    CatalogSurvey survey = survey_catalog(folder);
    // A folder that is no model's at all lacks more than its config, but that is not what is wrong with it.
    if (no_config)
      std::erase_if(survey.problems, [&](const Problem& p) { return p.file == folder.string(); });
    files.problems.insert(files.problems.end(), survey.problems.begin(), survey.problems.end());
    if (survey.problems.empty() || !survey.catalog.entries.empty()) files.catalog = std::move(survey.catalog);
  } catch (const Error& error) {
    keep(error);
  }
  return files;
}

std::optional<ModelPlan> plan_files(ModelFiles& files, Precision precision, bool with_mtp) {
  if (!files.config || !files.catalog) return std::nullopt;
  ModelPlan plan = plan_model(*files.config, precision, *files.catalog, with_mtp);
  std::vector<Problem> found = plan.load.problems;
  if (files.quantization_unknown) erase_what_may_follow(found, plan, *files.catalog);
  files.problems.insert(files.problems.end(), found.begin(), found.end());
  return plan;
}

PlannedModel plan_loading(ModelFiles files, const LoadOptions& options) {
  try {
    std::optional<ModelPlan> plan;
    std::vector<Problem> bad_scales;
    if (options.mtp_if_intact && files.config && files.catalog) {
      plan = plan_model(*files.config, options.precision, *files.catalog, /*with_mtp=*/true);
      if (plan->load.problems.empty()) bad_scales = bad_mtp_scales(*files.config, *plan, *files.catalog);
    }
    if (!plan || !plan->load.problems.empty() || !bad_scales.empty()) {
      plan = plan_files(files, options.precision, options.mtp);
      if (!bad_scales.empty()) plan->notices.push_back(left_out(*files.config, bad_scales));
    }
    if (!files.problems.empty()) throw Error(std::move(files.problems));
    if (options.mtp && !plan->mtp) throw Error(without_mtp(files));
    return {.name = files.name,
            .config = std::move(*files.config),
            .catalog = std::move(*files.catalog),
            .plan = std::move(*plan)};
  } catch (Error& error) {
    error.add_context(fmt::format("loading {}", files.name));
    throw;
  }
}

LoadedModel load(PlannedModel planned, int num_threads, const LoadProgress& progress) {
  try {
    ModelPlan& plan = planned.plan;
    LoadedModel model{.config = std::move(planned.config),
                      .memory = execute(plan.load, plan.parameters, planned.catalog, num_threads, progress),
                      .notices = std::move(plan.notices)};
    for (size_t i = 0; i < plan.slots.size(); ++i) *plan.slots[i] = model.memory.weights[i];
    model.weights = std::move(*plan.weights);
    share_weights(model.weights);
#ifdef __GLIBC__
    malloc_trim(0);  // what loading took and freed is the system's again, so that memory_need() holds
#endif
    return model;
  } catch (const std::bad_alloc&) {
    throw Error(Problem{.kind = ErrorKind::kBadRequest,
                        .message = fmt::format("There is not enough memory to load {}.", planned.name),
                        .expected = "memory for the weights and scales that are copied",
                        .found = "an allocation that the system, or a limit (ulimit), refused",
                        .todo = "raise the limit, or end what else takes memory"});
  } catch (Error& error) {
    error.add_context(fmt::format("loading {}", planned.name));
    throw;
  }
}

LoadedModel load_model(const std::filesystem::path& folder, const LoadOptions& options, int num_threads,
                       const LoadProgress& progress) {
  return load(plan_loading(read_model_files(folder), options), num_threads, progress);
}

LoadedModel load_model(const std::filesystem::path& folder, Precision precision, int num_threads,
                       const LoadProgress& progress) {
  return load_model(folder, LoadOptions{.precision = precision}, num_threads, progress);
}

}  // namespace fulgur
