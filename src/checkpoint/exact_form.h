#pragma once

#include "checkpoint/load_plan.h"

namespace fulgur {

/// Whether `plain` holds every value of a stored module exactly: bf16, f16 and f32 by their types, FP8 and
/// NVFP4 by all the products that a code could have with the scales that are stored. Throws bad_scale for a
/// scale that none may be.
bool holds_values_exactly(WeightForm plain, const PlannedSource& source, const Catalog& catalog);

}  // namespace fulgur
