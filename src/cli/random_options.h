#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/recipe.h"
#include "cli/arguments.h"
#include "model/random_model.h"

namespace fulgur::cli {

/// The options of a model without weights (docs/spec/commands.md, Common).
struct RandomOptions {
  std::string config;
  std::optional<int64_t> layers;
  std::vector<std::string> fields;  // FIELD=VALUE
  std::optional<TargetForm> form;
  std::optional<uint64_t> seed;

  [[nodiscard]] bool chosen() const { return !config.empty(); }
};

/// `--random-weights`, which stands in the place of `folder`, and what goes with it alone.
void add_random_options(Arguments& args, RandomOptions& options, const Option* folder = nullptr);

/// A field without a value is a usage error.
RandomWeights random_weights(const RandomOptions& options);

}  // namespace fulgur::cli
