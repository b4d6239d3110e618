#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "model/config.h"
#include "model/config_fields.h"

namespace fulgur {

/// Widths, counts of heads and tokens (docs/spec/model.md, section 10).
constexpr IntegerRange kSizeRange{1, int64_t{1} << 24};
inline constexpr IntegerRange kLayerRange{1, 1000};

/// rope_theta, rope_scaling and rope_parameters (section 2): both spellings are checked, rope_parameters
/// wins.
RopeConfig read_rope(ConfigFields& config);

/// Which layers own an indexer, by section 5's schedule: the first of indexer_types, index_topk_pattern,
/// index_topk_freq that applies. num_layers = 0 (it was refused): only what doesn't depend on it is checked.
std::vector<bool> read_full_indexers(ConfigFields& config, int64_t num_layers);

/// The fields that say something of each layer: lists, or a string with a letter for each.
inline constexpr std::string_view kLayerLists[] = {"indexer_types", "index_topk_pattern", "mlp_layer_types"};

/// Which layers are MoE (section 1): mlp_layer_types, else first_k_dense_replace and moe_layer_freq.
std::vector<bool> read_moe_layers(ConfigFields& config, int64_t num_layers);

/// quantization_config: the method is one of docs/spec/checkpoints.md, section 3. Its lists of modules are
/// hints; what a tensor is stored as is read off the tensors.
std::optional<Quantization> read_quantization(ConfigFields& config);
/// The same from modelopt's hf_quant_config.json, which must not contradict `beside`, the config's.
std::optional<Quantization> read_modelopt_quantization(ConfigFields& document,
                                                       const std::optional<Quantization>& beside);

}  // namespace fulgur
