#pragma once

#include <cstddef>

#include "base/weight.h"

namespace fulgur {

/// The values of an FP8 or NVFP4 weight, row by row, as bf16 or f32: the exact product of code and scales,
/// rounded once. Rows taken of a weight give the same values as the whole one does.
void dequantize(const Weight& weight, WeightForm to, std::byte* values);

/// The same for a weight in any form, plain ones converted (checkpoint/convert.h); those need not be aligned.
void convert_rows(const Weight& from, WeightForm to, std::byte* values);

}  // namespace fulgur
