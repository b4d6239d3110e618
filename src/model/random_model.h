#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "checkpoint/catalog.h"
#include "checkpoint/recipe.h"
#include "model/config.h"
#include "model/config_changes.h"
#include "model/inspection.h"

namespace fulgur {

/// A model without weights: a config.json, and what to draw in place of a checkpoint.
struct RandomWeights {
  std::filesystem::path config;  // a file
  ConfigChanges changes;
  std::optional<TargetForm> form;  // else what the config declares
  uint64_t seed = 0;
};

/// What a checkpoint of that config would hold.
struct RandomModel {
  std::string config_text;      // as changed, with the quantization fields of the recipe
  std::string hf_quant_config;  // the text of that file beside it; empty where there is none
  Config config;
  Recipe recipe;
  Catalog catalog;  // every entry is drawn
};

/// Throws what is wrong with the config, and bad_config where it declares a quantization that is none of
/// kTargetForms, or asks for more tensors than are worth a list.
RandomModel make_random_model(const RandomWeights& wanted);

/// What its weights take in memory, the MTP layer's where it has one and `with_mtp`, from the config alone,
/// before its tensors are listed. Throws what is wrong with the config.
WeightBytes random_weight_bytes(const RandomWeights& wanted, Precision precision, bool with_mtp);

/// The tensors of a published checkpoint of this config, MTP layer included, in the forms of `recipe`, the
/// indexer's two projections apart. Matrices are drawn with a deviation of 1 / sqrt(columns), so that
/// activations keep their size, gains near 1, biases near 0 and embeddings with a deviation of 1. `source`
/// names it in messages.
Catalog random_catalog(const Config& config, const Recipe& recipe, uint64_t seed, std::string source);

/// The same as the files of a model. Never throws for what the config holds.
ModelFiles read_model_files(const RandomWeights& wanted);

}  // namespace fulgur
