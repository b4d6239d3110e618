#include "model/config_changes.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "base/json.h"
#include "model/config.h"
#include "model/config_sections.h"

namespace fulgur {
namespace {

constexpr const char* kNumLayers = "num_hidden_layers";
constexpr const char* kNumDense = "first_k_dense_replace";

[[noreturn]] void refuse(std::string field, std::string message, std::string expected, std::string found,
                         std::string todo) {
  throw Error(Problem{.kind = ErrorKind::kBadConfig,
                      .tensor = std::move(field),
                      .message = std::move(message),
                      .expected = std::move(expected),
                      .found = std::move(found),
                      .todo = std::move(todo)});
}

Json parse_value(const ConfigChanges::Field& field) {
  try {
    return parse_json(field.value, ErrorKind::kBadConfig, "--set " + field.name);
  } catch (const Error&) {
    refuse(field.name,
           fmt::format("--set {} is given a value that is not JSON, or a number beyond 64-bit floats.",
                       field.name),
           "a number, true, false, null, a list, an object, or a string in double quotes",
           brief(Json(field.value)),
           fmt::format("put a string in quotes that the shell leaves alone: --set '{}={}'", field.name,
                       brief(Json(field.value))));
  }
}

void set_layers(Json& document, int64_t num_layers) {
  document[kNumLayers] = num_layers;
  const auto most = static_cast<size_t>(num_layers);
  for (const std::string_view field : kLayerLists) {
    if (!document.contains(field)) continue;
    Json& list = document[std::string(field)];
    if (list.is_array() && list.size() > most) {
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(most), list.end());
    } else if (list.is_string()) {
      list = list.get<std::string>().substr(0, most);
    }
  }
}

/// The place of "rope_scaling.factor": a field inside another must be there already.
Json& place_of(Json& document, const std::string& name) {
  const size_t dot = name.find('.');
  const std::string outer = name.substr(0, dot);
  if (!config_field_names().contains(outer)) {
    refuse(name, fmt::format("{} is no field of a config.json that Fulgur reads.", brief(Json(name))),
           "one that docs/spec/model.md names", brief(Json(name)), "check its spelling");
  }
  if (dot == std::string::npos) return document[name];
  const std::string inner = name.substr(dot + 1);
  if (!document.contains(outer) || !document[outer].is_object() || !document[outer].contains(inner)) {
    refuse(name, fmt::format("The config has no {} to be set.", brief(Json(name))),
           fmt::format("a field that {} of this config holds", outer),
           document.contains(outer) ? brief(document[outer]) : fmt::format("no {}", outer),
           fmt::format("check its spelling, or set the whole of {}", outer));
  }
  return document[outer][inner];
}

void set_field(Json& document, const ConfigChanges::Field& field, const ConfigChanges& changes) {
  Json& place = place_of(document, field.name);
  if (field.name == kNumLayers && changes.num_layers) {
    refuse(field.name, "--layers and --set num_hidden_layers both say how many layers there are.",
           "one of them", "both", "leave one of them away");
  }
  place = parse_value(field);
}

/// Fewer layers than are dense by first_k_dense_replace: nobody can have meant that.
void check_dense_layers(const Json& document, int64_t num_layers) {
  if (document.contains("mlp_layer_types") && !document["mlp_layer_types"].is_null()) return;
  if (!document.contains(kNumDense) || !document[kNumDense].is_number_integer()) return;
  if (document[kNumDense] <= num_layers) return;
  const std::string found = brief(document[kNumDense]);
  refuse(kNumDense,
         fmt::format("{} is {}, more than the layers that --layers {} leaves.", kNumDense, found, num_layers),
         fmt::format("at most {}", num_layers), found,
         fmt::format("add --set {}=0 for layers with experts, or --set {}={} for dense layers alone",
                     kNumDense, kNumDense, num_layers));
}

}  // namespace

std::string change_config(const std::filesystem::path& file, const ConfigChanges& changes) {
  Json document = read_json(file, ErrorKind::kBadConfig);
  if (!document.is_object()) return document.dump();  // which the reader of configs refuses
  if (changes.num_layers) set_layers(document, *changes.num_layers);
  for (const ConfigChanges::Field& field : changes.fields) set_field(document, field, changes);
  if (changes.num_layers) check_dense_layers(document, *changes.num_layers);
  return document.dump(2);
}

}  // namespace fulgur
