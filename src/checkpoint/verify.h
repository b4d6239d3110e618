#pragma once

#include <vector>

#include "base/error.h"
#include "checkpoint/load_plan.h"

namespace fulgur {

/// Reads every value that a plan uses: a bad_value for each tensor of weights that holds a NaN or an infinity
/// (FP8: a NaN code), or an infinity once its scales are applied; a bad_scale for each scale with a value
/// that none may be, or with a 0 over codes that aren't (docs/spec/checkpoints.md, section 4). Empty: all
/// values are good. Throws io_error if a file changed meanwhile.
std::vector<Problem> verify(const LoadPlan& plan, const Catalog& catalog, int num_threads,
                            const LoadProgress& progress = nullptr);

}  // namespace fulgur
