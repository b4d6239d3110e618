#include "base/weight.h"

#include <array>

namespace fulgur {

std::string_view name(WeightForm form) {
  constexpr std::array<std::string_view, 5> kNames = {"bf16", "f16", "f32", "fp8", "nvfp4"};
  return kNames[static_cast<size_t>(form)];
}

}  // namespace fulgur
