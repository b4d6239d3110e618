#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "model/config_sections.h"

namespace fulgur {
namespace {

/// A per-layer list of two words, or null: which layers have the first of them. Empty when the field is
/// refused.
std::optional<std::vector<bool>> read_list(ConfigFields& config, std::string_view field,
                                           const std::optional<std::vector<std::string>>& entries,
                                           int64_t num_layers, std::string_view yes, std::string_view no) {
  if (!config.good({field})) return std::vector<bool>{};
  if (!entries) return std::nullopt;
  std::vector<bool> layers;
  for (const std::string& entry : *entries) {
    if (entry != yes && entry != no) {
      config.refuse(field, ErrorKind::kBadConfig,
                    fmt::format("{}[{}] must be \"{}\" or \"{}\", not {}.", field, layers.size(), yes, no,
                                brief(entry)),
                    fmt::format("\"{}\" or \"{}\" for each layer", yes, no), brief(entry));
      return std::vector<bool>{};
    }
    layers.push_back(entry == yes);
  }
  if (num_layers != 0 && static_cast<int64_t>(layers.size()) != num_layers) {
    config.refuse(
        field, ErrorKind::kBadConfig,
        fmt::format("{} names {} layers, but num_hidden_layers is {}.", field, layers.size(), num_layers),
        fmt::format("{} entries", num_layers), fmt::format("{} entries", layers.size()));
    return std::vector<bool>{};
  }
  return layers;
}

std::optional<std::vector<bool>> read_indexer_types(ConfigFields& config, int64_t num_layers) {
  return read_list(config, "indexer_types", config.nullable_strings("indexer_types"), num_layers, "full",
                   "shared");
}

/// "FSSF..." or the same as a list of letters.
std::optional<std::vector<bool>> read_pattern(ConfigFields& config, int64_t num_layers) {
  constexpr std::string_view kField = "index_topk_pattern";
  std::optional<std::vector<std::string>> letters;
  if (config.has(kField) && config.value(kField).is_string()) {
    letters.emplace();
    for (const char letter : config.value(kField).get<std::string>()) letters->emplace_back(1, letter);
  } else if (config.has(kField) && !config.value(kField).is_array()) {
    config.refuse(kField, "a string or list of F and S, or null");
  } else {
    letters = config.nullable_strings(kField);
  }
  return read_list(config, kField, letters, num_layers, "F", "S");
}

}  // namespace

std::vector<bool> read_full_indexers(ConfigFields& config, int64_t num_layers) {
  const auto types = read_indexer_types(config, num_layers);
  const auto pattern = read_pattern(config, num_layers);
  const int64_t freq = config.integer("index_topk_freq", kSizeRange, 1);
  const int64_t offset = config.integer("index_skip_topk_offset", {0, kSizeRange.most}, 2);
  if (num_layers == 0) return {};

  std::string_view decided_by = "indexer_types";
  std::vector<bool> full;
  if (types) {
    full = *types;
  } else if (pattern) {
    decided_by = "index_topk_pattern";
    full = *pattern;
  } else {
    decided_by = config.has("index_skip_topk_offset") ? "index_skip_topk_offset" : "index_topk_freq";
    for (int64_t i = 0; i < num_layers; ++i) full.push_back(std::max<int64_t>(i - offset + 1, 0) % freq == 0);
  }
  if (!full.empty() && !full.front()) {
    config.refuse(decided_by, ErrorKind::kBadConfig,
                  fmt::format("{} gives layer 0 no indexer of its own.", decided_by),
                  "layer 0 full: there is no layer before it whose selection it could share",
                  config.has(decided_by) ? brief(config.value(decided_by)) : "the default");
  }
  return full;
}

std::vector<bool> read_moe_layers(ConfigFields& config, int64_t num_layers) {
  const auto types = read_list(config, "mlp_layer_types", config.nullable_strings("mlp_layer_types"),
                               num_layers, "sparse", "dense");
  const IntegerRange layers{0, num_layers > 0 ? num_layers : kLayerRange.most};
  const int64_t num_dense = config.has("mlp_layer_types")
                                ? config.integer("first_k_dense_replace", {0, kLayerRange.most}, 0)
                                : config.integer("first_k_dense_replace", layers);
  const int64_t freq = config.integer("moe_layer_freq", kLayerRange, 1);
  if (types) return *types;
  std::vector<bool> moe;
  for (int64_t i = 0; i < num_layers; ++i) moe.push_back(i >= num_dense && i % freq == 0);
  return moe;
}

}  // namespace fulgur
