#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace fulgur {

/// Converts `count` values that need not be aligned: bf16, f16 and f32 to bf16 (rounded to nearest, ties to
/// even) or to f32 (exact); any type to itself. Other pairs throw std::logic_error.
void convert(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count);

}  // namespace fulgur
