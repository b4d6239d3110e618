#pragma once

#include <functional>
#include <string>

#include "property/damage_model.h"
#include "property/draw_model.h"
#include "property/shard_model.h"
#include "property/store_model.h"

namespace fulgur::property {

/// How a checkpoint is converted.
struct ConversionDraw {
  int64_t target = 0;    // none, bf16, fp8-block, nvfp4-modelopt, nvfp4-ct
  int64_t scales = 0;    // of fp8-block: f32, f32-pow2, e8m0, as declared
  int64_t spelling = 0;  // of the indexer's projection: as stored, fused, separate
};

/// Any model of the family, stored in any of the forms of docs/spec/checkpoints.md, in any files. All of it
/// is plain integers, so that rapidcheck can shrink it.
struct Draw {
  ModelDraw model;
  StoreDraw store;
  ShardDraw shards;
  ShardDraw other_shards;
  DamageDraw damage;
  ConversionDraw conversion;
};

/// The current GoogleTest case fails if the property throws for a draw, which is then printed in words,
/// shrunk, with the seed. RC_PARAMS="seed=.. max_success=.." says how many are drawn; without it, some that
/// are the same every time.
void expect_holds(const std::function<void(const Draw&)>& property);

/// Says that a property doesn't hold.
[[noreturn]] void fail(const std::string& why);

}  // namespace fulgur::property
