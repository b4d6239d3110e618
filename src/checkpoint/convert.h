#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace fulgur {

/// Whether convert() has this pair: bf16, f16 and f32 to bf16 (rounded to nearest, ties to even) and to f32
/// (exact), any type to itself.
bool can_convert(DType from, DType to);

/// Converts `count` values that need not be aligned; std::logic_error for a pair it doesn't have.
void convert(DType from_dtype, const std::byte* from, DType to_dtype, std::byte* to, int64_t count);

}  // namespace fulgur
