// What configs say of a recipe (docs/spec/checkpoints.md, 3.3, 3.6 and 3.7).

#include <nlohmann/json.hpp>

#include "checkpoint/recipe.h"

namespace fulgur {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kIndent = 2;

Json list_of(std::span<const std::string> modules) {
  Json list = Json::array();
  for (const std::string& module : modules) list.push_back(module);
  return list;
}

Json fp8_fields(const Recipe& recipe, std::span<const std::string> plain_modules) {
  Json fields = {{"quant_method", "fp8"},
                 {"fmt", "e4m3"},
                 {"activation_scheme", "dynamic"},
                 {"weight_block_size", {kFp8Block, kFp8Block}}};
  if (recipe.scales != BlockScales::kF32) fields["scale_fmt"] = "ue8m0";
  fields["modules_to_not_convert"] = list_of(plain_modules);
  return fields;
}

/// `inputs`: how the exporter spells that activations are quantized too and have a scale in the checkpoint,
/// its `dynamic`; null where they haven't: a reader that expects one would take what happens to be in memory.
Json nvfp4_group(const Json& inputs, bool full) {
  Json weights = {{"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", kNvfp4Group}};
  if (full) {
    weights["strategy"] = "tensor_group";
    weights["symmetric"] = true;
  }
  Json group = {{"targets", {"Linear"}}, {"weights", weights}, {"input_activations", nullptr}};
  if (!inputs.is_null()) {
    group["input_activations"] = weights;
    group["input_activations"]["dynamic"] = inputs;
  }
  return group;
}

/// Who reads these files asks for this name.
Json producer() { return {{"name", "modelopt"}}; }

Json modelopt_fields(std::span<const std::string> plain_modules, bool input_scales) {
  return {{"quant_method", "modelopt"},
          {"quant_algo", "NVFP4"},
          {"ignore", list_of(plain_modules)},
          {"config_groups", {{"group_0", nvfp4_group(input_scales ? Json(false) : Json(), false)}}},
          {"producer", producer()}};
}

Json compressed_tensors_fields(std::span<const std::string> plain_modules, bool input_scales) {
  return {{"quant_method", "compressed-tensors"},
          {"format", "nvfp4-pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", nvfp4_group(input_scales ? Json("local") : Json(), true)}}},
          {"ignore", list_of(plain_modules)}};
}

}  // namespace

std::string quantization_config_text(const Recipe& recipe, std::span<const std::string> plain_modules,
                                     bool input_scales) {
  switch (recipe.form) {
    case TargetForm::kBf16:
      return "";
    case TargetForm::kFp8Block:
      return fp8_fields(recipe, plain_modules).dump(kIndent);
    case TargetForm::kNvfp4Modelopt:
      return modelopt_fields(plain_modules, input_scales).dump(kIndent);
    case TargetForm::kNvfp4Ct:
      return compressed_tensors_fields(plain_modules, input_scales).dump(kIndent);
  }
  return "";
}

std::string hf_quant_config_text(const Recipe& recipe, std::span<const std::string> plain_modules) {
  if (recipe.form != TargetForm::kNvfp4Modelopt) return "";
  const Json document = {{"producer", producer()},
                         {"quantization",
                          {{"quant_algo", "NVFP4"},
                           {"kv_cache_quant_algo", nullptr},
                           {"group_size", kNvfp4Group},
                           {"exclude_modules", list_of(plain_modules)}}}};
  return document.dump(kIndent) + "\n";
}

}  // namespace fulgur
