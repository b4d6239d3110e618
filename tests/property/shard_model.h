#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "property/store_model.h"

namespace fulgur::property {

/// How tensors are laid out in files.
struct ShardDraw {
  int64_t num_shards = 1;
  int64_t index = 0;    // none, complete, without every third tensor
  int64_t order = 0;    // seeds the tensors' order, and with it their shards
  int64_t padding = 0;  // of headers: which tensors are misaligned
};

ShardDraw draw_shards(const Pick& pick);
std::string in_words(const ShardDraw& draw);

/// The files of a checkpoint, before they are written.
struct ShardedFiles {
  std::vector<std::string> names;
  std::vector<std::vector<TestTensor>> shards;              // parallel to names
  std::vector<std::pair<std::string, std::string>> listed;  // tensor, file; empty: no index
  int64_t padding = 0;

  /// The shard that holds a tensor.
  [[nodiscard]] size_t shard_of(const std::string& tensor) const;
};

/// Weights and scales, halves of pairs, all wherever the order brings them.
ShardedFiles shard(const StoredModel& model, const ShardDraw& draw);

void write_files(const ShardedFiles& files, const StoredModel& model, const std::filesystem::path& folder);

}  // namespace fulgur::property
