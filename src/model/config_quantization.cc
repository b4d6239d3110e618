#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "checkpoint/storage_form.h"
#include "model/config_sections.h"

namespace fulgur {
namespace {

constexpr std::string_view kConfigField = "quantization_config";
constexpr std::string_view kModelopt = "modelopt";

/// [128, 128], or null; whether it is there.
bool read_block(ConfigFields& fields, std::string_view field) {
  if (!fields.has(field)) return false;
  const Json& size = fields.value(field);
  const auto is_extent = [](const Json& extent) { return extent.is_number_integer() && extent > 0; };
  if (!size.is_array() || size.size() != 2 || !is_extent(size[0]) || !is_extent(size[1])) {
    fields.refuse(field, "two positive integers");
  } else if (size != Json{kFp8Block, kFp8Block}) {
    fields.refuse(field, fmt::format("[{},{}]", kFp8Block, kFp8Block), ErrorKind::kUnsupported);
  }
  return true;
}

/// One of `allowed`, null or absent; empty where it is not given.
std::string read_choice(ConfigFields& fields, std::string_view field,
                        std::initializer_list<std::string_view> allowed) {
  return fields.has(field) ? fields.choice(field, allowed, ErrorKind::kUnsupported, "") : "";
}

/// The only one that is supported, or null.
void check_integer(ConfigFields& fields, std::string_view field, std::initializer_list<int64_t> supported) {
  const auto given = fields.nullable_integer(field, kSizeRange);
  if (given && std::find(supported.begin(), supported.end(), *given) == supported.end()) {
    fields.refuse(field, fmt::format("{}", fmt::join(supported, " or ")), ErrorKind::kUnsupported);
  }
}

/// How one group of modules is quantized. What its FP8 scales look like is added to `declared`.
void read_group_weights(ConfigFields& weights, Fp8Scheme& declared) {
  read_choice(weights, "type", {"float"});
  check_integer(weights, "num_bits", {4, 8});
  const bool is_fp8 = weights.good({"num_bits"}) && weights.has("num_bits") && weights.value("num_bits") == 8;
  const bool has_block = read_block(weights, "block_structure");
  if (!is_fp8) {
    check_integer(weights, "group_size", {kNvfp4Group});
    read_choice(weights, "strategy", {"tensor_group", "group"});
    return;
  }
  const std::string strategy = read_choice(weights, "strategy", {"tensor", "channel", "block"});
  declared.block_scales |= strategy == "block" || (strategy.empty() && has_block);
  declared.row_scales |= strategy == "channel";
  declared.tensor_scales |= strategy == "tensor";
}

/// An object at `field`, or null; anything else is refused.
const Json* object_at(ConfigFields& fields, std::string_view field) {
  if (!fields.has(field)) return nullptr;
  if (fields.value(field).is_object()) return &fields.value(field);
  fields.refuse(field, "an object, or null");
  return nullptr;
}

/// What compressed-tensors, and modelopt's newer exports, declare group by group.
Fp8Scheme read_groups(ConfigFields& fields, const std::string& prefix) {
  Fp8Scheme declared{.block_scales = false};
  const Json* groups = object_at(fields, "config_groups");
  if (groups == nullptr) return declared;
  const std::string groups_prefix = prefix + "config_groups.";
  ConfigFields group_fields(*groups, fields.file(), fields.problems(), groups_prefix);
  for (const auto& [name, ignored] : groups->items()) {
    const Json* group = object_at(group_fields, name);
    if (group == nullptr) continue;
    const std::string group_prefix = groups_prefix + name + ".";
    ConfigFields in_group(*group, fields.file(), fields.problems(), group_prefix);
    if (const Json* weights = object_at(in_group, "weights")) {
      ConfigFields weight_fields(*weights, fields.file(), fields.problems(), group_prefix + "weights.");
      read_group_weights(weight_fields, declared);
    }
  }
  return declared;
}

}  // namespace

std::optional<Quantization> read_quantization(ConfigFields& config) {
  const Json* object = object_at(config, kConfigField);
  if (object == nullptr) return std::nullopt;
  const std::string prefix = fmt::format("{}.", kConfigField);
  ConfigFields fields(*object, config.file(), config.problems(), prefix);
  if (!fields.has("quant_method")) {
    fields.refuse_missing("quant_method", "\"fp8\", \"modelopt\" or \"compressed-tensors\"");
  }
  Quantization quantization{
      .method = read_choice(fields, "quant_method", {"fp8", kModelopt, "compressed-tensors"}),
      .algorithm = read_choice(fields, "quant_algo", {"NVFP4", "FP8"})};
  read_choice(fields, "fmt", {"e4m3"});
  read_choice(fields, "activation_scheme", {"dynamic", "static"});
  quantization.format = read_choice(fields, "format", {"nvfp4-pack-quantized", "float-quantized"});
  if (quantization.method != "fp8" && quantization.algorithm != "FP8" &&
      quantization.format != "float-quantized")
    check_integer(fields, "group_size", {kNvfp4Group});
  for (const std::string_view hints : {"modules_to_not_convert", "ignore", "exclude_modules"})
    (void)fields.nullable_strings(hints);

  const Fp8Scheme groups = read_groups(fields, prefix);
  Fp8Scheme& fp8 = quantization.fp8;
  if (read_block(fields, "weight_block_size")) {
    fp8.block_scales = true;  // and nothing else: a damaged grid of [1] is no scale of a tensor (3.8)
  } else if (groups.block_scales || groups.row_scales || groups.tensor_scales) {
    fp8 = groups;
  } else if (quantization.algorithm == "FP8") {
    fp8 = {.block_scales = false, .tensor_scales = true};
  } else if (quantization.format == "float-quantized") {
    fp8 = {.block_scales = false, .row_scales = true, .tensor_scales = true};
  }
  fp8.u8_scales = read_choice(fields, "scale_fmt", {"ue8m0"}) == "ue8m0";
  return quantization;
}

std::optional<Quantization> read_modelopt_quantization(ConfigFields& document,
                                                       const std::optional<Quantization>& beside) {
  constexpr std::string_view kField = "quantization";
  if (!document.has(kField)) document.refuse_missing(kField, "an object");
  const Json* object = object_at(document, kField);
  if (object == nullptr) return beside;
  ConfigFields fields(*object, document.file(), document.problems(), fmt::format("{}.", kField));
  if (!object->contains("quant_algo")) fields.refuse_missing("quant_algo", "\"NVFP4\", \"FP8\" or null");
  const std::string algorithm = read_choice(fields, "quant_algo", {"NVFP4", "FP8"});
  check_integer(fields, "group_size", {kNvfp4Group});
  (void)fields.nullable_strings("exclude_modules");
  if (!beside || (beside->method == kModelopt && beside->algorithm.empty())) {
    const bool fp8 = algorithm == "FP8";
    return Quantization{std::string(kModelopt), algorithm, {.block_scales = !fp8, .tensor_scales = fp8}};
  }
  if (!beside->algorithm.empty() && fields.good({"quant_algo"}) && beside->algorithm != algorithm) {
    fields.refuse("quant_algo",
                  fmt::format("\"{}\", as config.json's quantization_config.quant_algo", beside->algorithm));
  }
  return beside;
}

}  // namespace fulgur
