#include "checkpoint/exact_form.h"

#include <algorithm>
#include <vector>

#include "checkpoint/load_scales.h"

namespace fulgur {
namespace {

constexpr uint8_t kMostE4m3Code = 0x7e;
constexpr uint8_t kMostE2m1Code = 0x7;

bool is_exact(double product, WeightForm plain) {
  const auto near = static_cast<float>(product);
  if (static_cast<double>(near) != product) return false;
  return plain == WeightForm::kF32 || to_float(to_bf16(near)) == near;
}

/// Codes of magnitude; signs change nothing. The products are exact in double.
bool codes_are_exact(float scale, WeightForm plain) {
  for (uint8_t code = 1; code <= kMostE4m3Code; ++code) {
    if (!is_exact(static_cast<double>(e4m3_to_float(code)) * static_cast<double>(scale), plain)) return false;
  }
  return true;
}

/// Whatever the scales of the groups are. `factor` may be a reciprocal that double rounds: then it is no
/// float either, as a float that is not a power of two has no finite binary reciprocal.
bool groups_are_exact(double factor, WeightForm plain) {
  for (uint8_t scale = 1; scale <= kMostE4m3Code; ++scale) {
    for (uint8_t code = 1; code <= kMostE2m1Code; ++code) {
      const float value = e4m3_to_float(scale) * e2m1_to_float(code);
      if (!is_exact(static_cast<double>(value) * factor, plain)) return false;
    }
  }
  return true;
}

}  // namespace

bool holds_values_exactly(WeightForm plain, const PlannedSource& source, const Catalog& catalog) {
  const WeightForm stored = source.form->form;
  if (is_plain(stored)) return stored == plain || plain == WeightForm::kF32;
  for (const PlannedScale& scale : source.scales) {
    if (scale.role == ScaleRole::kGroups) continue;
    const std::vector<float> values = read_scale(scale, catalog);
    const auto exact = [&](float value) {
      if (scale.role == ScaleRole::kBlocks) return codes_are_exact(value, plain);
      const auto factor = static_cast<double>(value);
      return groups_are_exact(scale.role == ScaleRole::kFactor ? factor : 1 / factor, plain);
    };
    if (!std::all_of(values.begin(), values.end(), exact)) return false;
  }
  return true;
}

}  // namespace fulgur
