#pragma once

#include <span>
#include <string>
#include <vector>

#include "checkpoint/conversion_plan.h"

namespace fulgur {

/// What a conversion changes in what configs say of modules.
struct ModuleChanges {
  std::vector<std::string> plain;      // matrices that are not quantized, sorted
  std::vector<std::string> respelled;  // modules that are no more, or new: halves, fused projections
  std::vector<std::string> added;      // of the latter, those that are new and not quantized
  bool input_scales = false;           // quantized matrices have a scale of their activations
};
ModuleChanges module_changes(std::span<const ConvertedModule> modules, const Catalog& catalog);

/// config.json and hf_quant_config.json after a conversion. With a recipe they declare what it does; without
/// one they keep what they say, but for the names of respelled modules in their lists. hf_quant_config is
/// empty where there is none.
std::string converted_config(const std::string& text, const ConversionTarget& target,
                             const ModuleChanges& changes);
std::string converted_hf_quant_config(const std::string& text, const ConversionTarget& target,
                                      const ModuleChanges& changes);

}  // namespace fulgur
