#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace fulgur {

constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr size_t kMostShards = 2000;  // that an index may list; the largest published checkpoint has 282

/// Which files a checkpoint folder consists of.
struct ShardList {
  std::string source;              // what says so, for messages
  std::vector<std::string> files;  // plain names in the folder, sorted
  /// What the index says lies where: {tensor, index into files}, sorted. Empty where there is no index.
  std::vector<std::pair<std::string, int>> listed;
  /// Files of the folder that are called as shards are, and that the index doesn't list.
  std::vector<std::string> unlisted;
  bool complete = true;  // false: files that should be there are not among these
};

/// The index's word if there is an index; else exactly model.safetensors, or a complete set
/// model-*-of-*.safetensors (checkpoints.md, section 1). What is wrong is appended to `problems`. Of an index
/// that can't be read, the files are those that there would be without one, and not complete.
ShardList list_shards(const std::filesystem::path& folder, std::vector<Problem>& problems);

}  // namespace fulgur
