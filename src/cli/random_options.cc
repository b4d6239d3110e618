#include "cli/random_options.h"

#include <algorithm>

namespace fulgur::cli {
namespace {

constexpr int64_t kMostLayers = 1000;

}  // namespace

void add_random_options(Arguments& args, RandomOptions& options, const Option* folder) {
  const char* group = "Models without weights";
  Option random =
      args.add_option("--random-weights", options.config,
                      "In place of a checkpoint: the model of this config.json, its weights drawn at random");
  random.path().type_name("CONFIG.json").group(group);
  if (folder != nullptr) random.excludes(*folder);
  args.add_option("--layers", options.layers, "So many layers, fewer or more than the config has")
      .integer_range(1, kMostLayers)
      .type_name("N")
      .needs(random)
      .group(group);
  args.add_option("--set", options.fields,
                  "Another value, in JSON, for a field of the config (or one inside it: "
                  "rope_scaling.factor); may be given more than once")
      .one_at_a_time()
      .type_name("FIELD=VALUE")
      .needs(random)
      .group(group);
  std::vector<std::string> forms;
  for (const TargetForm form : kTargetForms) forms.emplace_back(name(form));
  args.add_option(
          "--weights-form",
          [&options](const std::string& text) {
            options.form = *std::ranges::find(kTargetForms, text, [](TargetForm form) { return name(form); });
          },
          "What the weights are stored as (default: what the config says)")
      .one_of(forms)
      .needs(random)
      .group(group);
  args.add_option("--random-seed", options.seed, "Other weights (default: 0)")
      .seed()
      .type_name("N")
      .needs(random)
      .group(group);
}

RandomWeights random_weights(const RandomOptions& options) {
  RandomWeights wanted{.config = options.config,
                       .changes = {.num_layers = options.layers},
                       .form = options.form,
                       .seed = options.seed.value_or(0)};
  for (const std::string& field : options.fields) {
    const size_t equals = field.find('=');
    if (equals == std::string::npos || equals == 0) usage_error("--set", field + " is not FIELD=VALUE");
    wanted.changes.fields.push_back({field.substr(0, equals), field.substr(equals + 1)});
  }
  return wanted;
}

}  // namespace fulgur::cli
