#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "property/refusal.h"
#include "property/shard_model.h"

namespace fulgur::property {

/// One defect: what it is (the next one where this checkpoint can't have it), and where.
struct DamageDraw {
  int64_t kind = 0;
  int64_t where = 0;
  int64_t how = 0;
};

int64_t num_defects();
DamageDraw draw_damage(const Pick& pick);

/// A checkpoint with one defect.
struct DamagedModel {
  StoredModel model;
  ShardedFiles files;
  std::function<void(const std::filesystem::path& folder)> after_writing;  // empty: nothing
  std::string in_words;
  std::vector<Refusal> expected;  // all of it
  bool mtp = false;               // seen only where the MTP layer is used
};

DamagedModel damage(const ModelDraw& draw, const StoredModel& good, const ShardDraw& shards,
                    const DamageDraw& damage);

}  // namespace fulgur::property
