#pragma once

#include "checkpoint/recipe.h"
#include "model/config.h"

namespace fulgur {

/// A form with the modules quantized that the NVFP4 releases of such a model quantize.
Recipe published_recipe(ModelType type, TargetForm form, BlockScales scales = BlockScales::kF32);

}  // namespace fulgur
