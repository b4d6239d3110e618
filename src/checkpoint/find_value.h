#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/dtype.h"

namespace fulgur {

/// The first of `count` values that is NaN or infinite (FP8: a NaN). They need not be aligned.
std::optional<int64_t> first_not_finite(DType dtype, const std::byte* values, int64_t count);

/// The first of `count` bf16 values that is infinite, and no NaN.
std::optional<int64_t> first_infinite_bf16(const std::byte* values, int64_t count);

}  // namespace fulgur
