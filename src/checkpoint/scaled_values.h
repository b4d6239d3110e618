#pragma once

#include <cstdint>
#include <optional>

#include "base/error.h"
#include "base/weight.h"
#include "checkpoint/catalog.h"

// What scales make of codes, and must not (docs/spec/checkpoints.md, section 4).

namespace fulgur {

/// The largest finite bf16: kernels and conversions make bf16 of every product of a code and its scales.
inline constexpr double kMostBf16 = 0x1.fep127;

/// A scale of FP8's blocks or NVFP4's groups, in the grid of a whole weight.
struct ScalePlace {
  int64_t row = 0;
  int64_t col = 0;
  int64_t cols = 0;  // of the grid
};

/// The first scale over a weight's rows that is 0, though not all the codes that it covers there are.
/// `first_row`: where they begin in the whole weight.
std::optional<ScalePlace> first_zero_scale(const Weight& w, int64_t first_row);
/// The bad_scale that says so; its file is left open.
Problem zero_scale_problem(const CatalogEntry& scale, const CatalogEntry& weight, const ScalePlace& place);

/// The first element of a weight that is infinite as bf16 once its scales are applied. Fast where no code
/// could be under the largest scale.
std::optional<int64_t> first_overflow(const Weight& weight);
/// Whether any code could be.
bool may_overflow(const Weight& weight);
/// The bad_value that says so of an element of a weight of so many columns; its file is left open.
Problem infinite_product_problem(const CatalogEntry& weight, int64_t element, int64_t cols);

}  // namespace fulgur
