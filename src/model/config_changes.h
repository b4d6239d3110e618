#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace fulgur {

/// What --layers and --set change of a config.json before it is read.
struct ConfigChanges {
  struct Field {
    std::string name;   // "rope_scaling.factor": one inside another, which is there already
    std::string value;  // JSON
  };
  std::optional<int64_t> num_layers;  // lists that name every layer are cut to these
  std::vector<Field> fields;          // replaced as they are, after that
};

/// The text of a config.json, changed. Throws an Error that names the field: one that Fulgur doesn't read, a
/// value that isn't JSON, layers that contradict first_k_dense_replace; what is wrong with the result is for
/// parse_config() to say.
std::string change_config(const std::filesystem::path& file, const ConfigChanges& changes);

}  // namespace fulgur
