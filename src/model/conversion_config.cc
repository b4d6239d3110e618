#include "model/conversion_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "checkpoint/ledger.h"

namespace fulgur {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kIndent = 2;
constexpr const char* kQuantization = "quantization_config";

/// The modules that a converted one is made from.
std::vector<std::string> sources_of(const ConvertedModule& module, const Catalog& catalog) {
  const auto name_of = [&](int entry) {
    return std::string(split_last(catalog.entries[static_cast<size_t>(entry)].name).first);
  };
  std::vector<std::string> names;
  for (const SourceRows& rows : module.sources) names.push_back(name_of(rows.source->entry));
  if (module.tensors.empty()) return names;
  for (const ByteRange& range : module.tensors.front().ranges) names.push_back(name_of(range.entry));
  return names;
}

/// In place of the respelled modules in a list stand those that are new. A sorted list stays sorted.
void respell(OrderedJson& list, const ModuleChanges& changes) {
  const bool sorted = std::is_sorted(list.begin(), list.end());
  OrderedJson kept = OrderedJson::array();
  for (const OrderedJson& name : list) {
    const bool gone = name.is_string() && std::find(changes.respelled.begin(), changes.respelled.end(),
                                                    name.get<std::string>()) != changes.respelled.end();
    if (!gone) kept.push_back(name);
  }
  for (const std::string& name : changes.added) kept.push_back(name);
  if (sorted) std::sort(kept.begin(), kept.end());
  list = std::move(kept);
}

/// The lists of modules in an object of quantization fields. There is one afterwards, of the name that the
/// method gives it, if any module is new and not quantized.
void respell_lists(OrderedJson& fields, const ModuleChanges& changes, const char* usual_name) {
  bool found = false;
  for (const char* name : {"modules_to_not_convert", "ignore", "exclude_modules"}) {
    if (!fields.contains(name) || !fields[name].is_array()) continue;
    respell(fields[name], changes);
    found = true;
  }
  if (!found && !changes.added.empty()) fields[usual_name] = changes.added;
}

}  // namespace

ModuleChanges module_changes(std::span<const ConvertedModule> modules, const Catalog& catalog) {
  ModuleChanges changes;
  std::set<std::string> respelled;
  for (const ConvertedModule& module : modules) {
    changes.input_scales = changes.input_scales || has_input_scale(module);
    if (!module.matrix) continue;
    const bool plain = is_plain(module.form->form);
    if (plain) changes.plain.push_back(module.name);
    const std::vector<std::string> sources = sources_of(module, catalog);
    if (std::all_of(sources.begin(), sources.end(), [&](const auto& name) { return name == module.name; }))
      continue;
    respelled.insert(sources.begin(), sources.end());
    respelled.insert(module.name);
    if (plain) changes.added.push_back(module.name);
  }
  changes.respelled.assign(respelled.begin(), respelled.end());
  std::sort(changes.plain.begin(), changes.plain.end());
  return changes;
}

std::string converted_config(const std::string& text, const ConversionTarget& target,
                             const ModuleChanges& changes) {
  if (!target.recipe && changes.respelled.empty()) return text;
  OrderedJson config = OrderedJson::parse(text);
  if (target.recipe) {
    config.erase(kQuantization);
    const std::string fields = quantization_config_text(*target.recipe, changes.plain, changes.input_scales);
    if (!fields.empty()) config[kQuantization] = OrderedJson::parse(fields);
    for (const char* dtype : {"dtype", "torch_dtype"}) {
      if (config.contains(dtype)) config[dtype] = "bfloat16";
    }
  } else {
    if (!config.contains(kQuantization) || !config[kQuantization].is_object()) return text;
    OrderedJson& fields = config[kQuantization];
    respell_lists(fields, changes,
                  fields.value("quant_method", "") == "fp8" ? "modules_to_not_convert" : "ignore");
  }
  return config.dump(kIndent) + "\n";
}

std::string converted_hf_quant_config(const std::string& text, const ConversionTarget& target,
                                      const ModuleChanges& changes) {
  if (target.recipe) return hf_quant_config_text(*target.recipe, changes.plain);
  if (text.empty() || changes.respelled.empty()) return text;
  OrderedJson document = OrderedJson::parse(text);
  if (document.contains("quantization") && document["quantization"].is_object())
    respell_lists(document["quantization"], changes, "exclude_modules");
  return document.dump(kIndent) + "\n";
}

}  // namespace fulgur
