#include "model/published_recipe.h"

namespace fulgur {
namespace {

Fp4Modules fp4_modules(ModelType type) {
  switch (type) {
    case ModelType::kDeepseekV3:
      return Fp4Modules::kMlps;
    case ModelType::kDeepseekV32:
      return Fp4Modules::kExperts;
    case ModelType::kGlmMoeDsa:
      return Fp4Modules::kRoutedExperts;
  }
  return Fp4Modules::kRoutedExperts;
}

}  // namespace

Recipe published_recipe(ModelType type, TargetForm form, BlockScales scales) {
  return {.form = form, .scales = scales, .fp4 = fp4_modules(type)};
}

}  // namespace fulgur
