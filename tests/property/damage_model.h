#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "property/shard_model.h"

namespace fulgur::property {

/// One defect: what it is, and where, each counted among those that this checkpoint can have.
struct DamageDraw {
  int64_t kind = 0;
  int64_t where = 0;
  int64_t how = 0;
};

DamageDraw draw_damage(const Pick& pick);

/// What a refusal must say: its kind and, as its tensor or file or in its sentence, this name.
struct Expected {
  ErrorKind kind{};
  std::string name;
};

/// A checkpoint with one defect.
struct DamagedModel {
  StoredModel model;
  ShardedFiles files;
  std::function<void(const std::filesystem::path& folder)> after_writing;  // empty: nothing
  std::string in_words;
  std::vector<Expected> expected;  // all of it
  bool mtp = false;                // seen only where the MTP layer is used
};

DamagedModel damage(const ModelDraw& draw, const StoredModel& good, const ShardDraw& shards,
                    const DamageDraw& damage);

/// Where `found` isn't just what is expected; empty if it is.
std::string disagreement(const DamagedModel& damaged, const std::vector<Problem>& found);

}  // namespace fulgur::property
