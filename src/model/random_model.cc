#include "model/random_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "checkpoint/draw.h"
#include "checkpoint/ledger.h"
#include "model/published_recipe.h"
#include "model/weights.h"

namespace fulgur {
namespace {

constexpr const char* kQuantizationField = "quantization_config";

/// Ten times what the largest published checkpoint holds; listing so many takes some 700 MB.
constexpr uint64_t kMostTensors = 1'000'000;

constexpr float kEmbeddingDeviation = 1;
constexpr float kGainDeviation = 0.1F;
constexpr float kBiasDeviation = 0.1F;
/// Of the router's correction: scores are sigmoids of numbers around 0, whose deviation is some 0.2.
constexpr float kCorrectionDeviation = 0.02F;

Recipe refuse_quantization(const std::string& file, const Quantization& declared) {
  const std::string& kind = declared.algorithm.empty() ? declared.format : declared.algorithm;
  throw Error(Problem{
      .kind = ErrorKind::kBadConfig,
      .file = file,
      .tensor = kQuantizationField,
      .message = fmt::format("Weights can't be drawn in the form that {} declares.", kQuantizationField),
      .expected = "fp8 with blocks, modelopt's NVFP4, or nvfp4-pack-quantized",
      .found = fmt::format("quant_method {} {}", declared.method, kind),
      .todo = "say which form with --weights-form"});
}

Recipe declared_recipe(const Config& config, const std::string& file) {
  if (!config.quantization) return {TargetForm::kBf16};
  const Quantization& declared = *config.quantization;
  if (declared.method == "fp8") {
    return {TargetForm::kFp8Block, declared.fp8.u8_scales ? BlockScales::kF32Pow2 : BlockScales::kF32};
  }
  if (declared.method == "modelopt" && declared.algorithm == "NVFP4") {
    return published_recipe(config.model_type, TargetForm::kNvfp4Modelopt);
  }
  if (declared.method == "compressed-tensors" && declared.format == "nvfp4-pack-quantized") {
    return published_recipe(config.model_type, TargetForm::kNvfp4Ct);
  }
  return refuse_quantization(file, declared);
}

/// Matrices that are not quantized, without ".weight".
std::vector<std::string> plain_modules(const Catalog& catalog) {
  std::vector<std::string> modules;
  for (const CatalogEntry& entry : catalog.entries) {
    const auto [module, last] = split_last(entry.name);
    if (last == "weight" && entry.shape.size() == 2 && plain_form(entry.dtype)) modules.emplace_back(module);
  }
  return modules;
}

/// The config of the same model in another form.
std::string requantized(const std::string& config_text, const Recipe& recipe,
                        const std::vector<std::string>& plain, const std::string& file) {
  Json document = parse_json(config_text, ErrorKind::kBadConfig, file);
  const std::string fields = quantization_config_text(recipe, plain, /*input_scales=*/false);
  document.erase(kQuantizationField);
  if (!fields.empty()) document[kQuantizationField] = parse_json(fields, ErrorKind::kBadConfig, file);
  return document.dump(2);
}

/// The power of two that is nearest, as factors go.
float nearest_power(float value) {
  int exponent = 0;
  const float mantissa = std::frexp(value, &exponent);  // 1/2 .. 1
  return std::ldexp(1.0F, mantissa < std::sqrt(0.5F) ? exponent - 1 : exponent);
}

Draw draw_of_vector(std::string_view tensor, uint64_t key) {
  if (tensor.ends_with("e_score_correction_bias")) return around(0, kCorrectionDeviation, key);
  return tensor.ends_with(".bias") ? around(0, kBiasDeviation, key) : around(1, kGainDeviation, key);
}

float deviation_of(const Part& matrix) {
  if (matrix.tensor.ends_with("embed_tokens.weight")) return kEmbeddingDeviation;
  return 1 / std::sqrt(static_cast<float>(matrix.shape.back().size));
}

Draw draw_of_weight(const Part& part, const StorageForm& form, uint64_t key) {
  if (part.shape.size() == 1) return draw_of_vector(part.tensor, key);
  if (form.form == WeightForm::kFp8) return {.kind = Draw::Kind::kFp8Codes, .key = key};
  if (form.form == WeightForm::kNvfp4) return {.kind = Draw::Kind::kFp4Codes, .key = key};
  return around(0, deviation_of(part), key);
}

/// Scales that give the codes the deviation of their matrix.
Draw draw_of_scale(const Part& part, ScaleRole role, BlockScales scales, uint64_t key) {
  const float of_codes = deviation_of(part) / fp8_codes_rms();
  const float of_matrix = deviation_of(part) / (fp4_codes_rms() * group_scales_rms());
  switch (role) {
    case ScaleRole::kBlocks:
      if (scales == BlockScales::kF32)
        return {.kind = Draw::Kind::kBlockScales, .center = of_codes, .key = key};
      return {
          .kind = Draw::Kind::kPowerScales, .center = nearest_power(of_codes * std::sqrt(1.6F)), .key = key};
    case ScaleRole::kGroups:
      return {.kind = Draw::Kind::kGroupScales, .key = key};
    case ScaleRole::kFactor:
      return {.kind = Draw::Kind::kConstant, .center = of_matrix, .key = key};
    case ScaleRole::kDivisor:
      return {.kind = Draw::Kind::kConstant, .center = 1 / of_matrix, .key = key};
    case ScaleRole::kActivations:
      break;
  }
  return {};
}

ScaleRole role_of(const StorageForm& form, std::string_view tensor) {
  const std::string_view last = split_last(tensor).second;
  return std::find_if(form.scales.begin(), form.scales.end(),
                      [&](const ScaleSpelling& s) { return s.name == last; })
      ->role;
}

CatalogEntry entry_of(const StoredTensor& tensor, const Draw& drawn) {
  return {.name = tensor.name,
          .dtype_name = std::string(name(tensor.dtype)),
          .dtype_known = true,
          .dtype = tensor.dtype,
          .shape = tensor.shape,
          .bytes = size_bytes(tensor),
          .drawn = drawn};
}

/// Every parameter of a published checkpoint: DeepSeek's come with the MTP layer's copies of embedding and
/// head, GLM's without.
std::vector<Slot> published_slots(const Config& config, ModelWeights& weights) {
  std::vector<Slot> slots = main_slots(config, Precision::kNative, weights);
  if (config.num_nextn_predict_layers == 0) return slots;
  const bool copies = config.model_type != ModelType::kGlmMoeDsa;
  std::vector<Slot> mtp = mtp_slots(config, Precision::kNative, weights, copies, copies);
  slots.insert(slots.end(), std::make_move_iterator(mtp.begin()), std::make_move_iterator(mtp.end()));
  return slots;
}

/// What to do about a config that no checkpoint belongs to, and whose fields --set may change.
std::string advice(const Problem& problem, const ConfigChanges& changes) {
  const bool is_set = std::ranges::any_of(changes.fields, [&](const ConfigChanges::Field& field) {
    return problem.tensor == field.name || problem.tensor.starts_with(field.name + ".");
  });
  if (is_set) return fmt::format("give --set {} another value", problem.tensor);
  if (problem.kind != ErrorKind::kBadConfig) return problem.todo;
  if (problem.tensor.empty()) return "give the config.json of a model";
  return fmt::format("correct the field, or give --set {} a value", problem.tensor);
}

Config parse_changed(const std::string& config_text, const std::string& file, const ConfigChanges& changes) {
  try {
    return parse_config(config_text, file);
  } catch (const Error& error) {
    std::vector<Problem> problems = error.problems();
    for (Problem& problem : problems) problem.todo = advice(problem, changes);
    throw Error(std::move(problems));
  }
}

/// The model of a config, its tensors still to be listed.
RandomModel without_tensors(const RandomWeights& wanted) {
  const std::string file = wanted.config.filename().string();
  RandomModel model{.config_text = change_config(wanted.config, wanted.changes)};
  model.config = parse_changed(model.config_text, file, wanted.changes);
  model.recipe = wanted.form ? published_recipe(model.config.model_type, *wanted.form)
                             : declared_recipe(model.config, file);
  return model;
}

void list_tensors(RandomModel& model, const RandomWeights& wanted) {
  model.catalog =
      random_catalog(model.config, model.recipe, wanted.seed,
                     fmt::format("{} (weights drawn at random)", wanted.config.filename().string()));
}

/// A quantity of the model that grows linearly with the number of experts, from what it is with one and with
/// two: a million experts need not be listed. The largest number where it is larger.
template <typename Quantity>
uint64_t by_number_of_experts(RandomModel model, const RandomWeights& wanted, Quantity quantity) {
  const int64_t wanted_experts = model.config.n_routed_experts;
  const auto with = [&](int64_t num_experts) {
    model.config.n_routed_experts = num_experts;
    list_tensors(model, wanted);
    return static_cast<uint64_t>(quantity(model));
  };
  if (wanted_experts <= 2) return with(wanted_experts);
  const uint64_t one = with(1);
  const uint64_t step = with(2) - one;
  uint64_t result = 0;
  const bool overflows = __builtin_mul_overflow(step, static_cast<uint64_t>(wanted_experts - 1), &result) ||
                         __builtin_add_overflow(result, one, &result);
  return overflows ? std::numeric_limits<uint64_t>::max() : result;
}

void check_number_of_tensors(const RandomModel& model, const RandomWeights& wanted) {
  const uint64_t count = by_number_of_experts(
      model, wanted, [](const RandomModel& some) { return some.catalog.entries.size(); });
  if (count <= kMostTensors) return;
  throw Error(Problem{
      .kind = ErrorKind::kBadConfig,
      .file = wanted.config.filename().string(),
      .tensor = "n_routed_experts",
      .message = fmt::format("n_routed_experts = {} makes a model of {} tensors, more than are drawn.",
                             model.config.n_routed_experts, count),
      .expected = fmt::format("at most {} tensors", kMostTensors),
      .found = fmt::format("{} experts in {} layers", model.config.n_routed_experts,
                           model.config.num_hidden_layers),
      .todo = "ask for less of it: --layers N, --set n_routed_experts=N"});
}

}  // namespace

Catalog random_catalog(const Config& config, const Recipe& recipe, uint64_t seed, std::string source) {
  Catalog catalog{.source = std::move(source)};
  ModelWeights weights;
  for (const Slot& slot : published_slots(config, weights)) {
    const Parameter& parameter = slot.parameter;
    if (parameter.arrangement == Arrangement::kUv) continue;  // UK is made from the same tensor
    for (const Part& part : parameter.spellings.front()) {
      const StoredPart stored = stored_part(recipe, part, parameter.quantizable);
      for (const StoredTensor& tensor : stored.tensors) {
        const uint64_t key = draw_key(seed, tensor.name);
        const bool weight = &tensor == &stored.tensors.front();
        catalog.entries.push_back(entry_of(
            tensor, weight ? draw_of_weight(part, *stored.form, key)
                           : draw_of_scale(part, role_of(*stored.form, tensor.name), recipe.scales, key)));
      }
    }
  }
  std::sort(catalog.entries.begin(), catalog.entries.end(),
            [](const CatalogEntry& a, const CatalogEntry& b) { return a.name < b.name; });
  return catalog;
}

RandomModel make_random_model(const RandomWeights& wanted) {
  RandomModel model = without_tensors(wanted);
  check_number_of_tensors(model, wanted);
  list_tensors(model, wanted);
  const std::vector<std::string> plain = plain_modules(model.catalog);
  model.hf_quant_config = hf_quant_config_text(model.recipe, plain);
  if (wanted.form) {
    const std::string file = wanted.config.filename().string();
    model.config_text = requantized(model.config_text, model.recipe, plain, file);
    model.config = parse_config(model.config_text, file);
  }
  return model;
}

WeightBytes random_weight_bytes(const RandomWeights& wanted, Precision precision, bool with_mtp) {
  RandomModel model = without_tensors(wanted);
  if (wanted.form) {
    const std::string file = wanted.config.filename().string();
    model.config.quantization =
        parse_config(requantized(model.config_text, model.recipe, {}, file), file).quantization;
  }
  const auto copied = [&](const RandomModel& some) {
    const ModelPlan plan = plan_model(some.config, precision, some.catalog, with_mtp);
    return weight_bytes(plan, some.catalog, with_mtp && plan.mtp).copied;
  };
  return {.copied = by_number_of_experts(model, wanted, copied)};
}

ModelFiles read_model_files(const RandomWeights& wanted) {
  ModelFiles files{.name = wanted.config.string()};
  try {
    RandomModel model = make_random_model(wanted);
    files.config = std::move(model.config);
    files.catalog = std::move(model.catalog);
  } catch (const Error& error) {
    files.problems = error.problems();
  }
  return files;
}

}  // namespace fulgur
