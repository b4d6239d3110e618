#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "checkpoint/recipe.h"

namespace fulgur {

/// The largest magnitude among values; empty where one of them is a NaN or an infinity.
std::optional<float> largest_magnitude(std::span<const float> values);

/// FP8: the scale of a block whose largest magnitude is given, such that it becomes 448, the largest code, or
/// with powers of two at most that. A block of zeros has scale 1.
float fp8_block_scale(float largest, BlockScales scales);
/// A row of blocks: values [rows, cols], rows <= 128, to codes of the same shape and ceil(cols / 128) scales.
/// codes = e4m3(value / scale), the quotient an f32, rounded to nearest, ties to even. No value may be a NaN
/// or an infinity.
void quantize_fp8(const float* values, int64_t rows, int64_t cols, BlockScales scales, uint8_t* codes,
                  float* block_scales);

/// NVFP4: the factor of a matrix whose largest magnitude is given, such that the group that holds it has the
/// largest scale (448) and it the largest code (6). A matrix of zeros has factor 1.
float nvfp4_factor(float largest);
/// Values [rows, cols], cols a multiple of 16, to packed codes [rows, cols / 2] and group scales
/// [rows, cols / 16]: e4m3(largest of the group / 6 / factor), at least the smallest above 0, and
/// codes = e2m1(value / (scale * factor)), the quotients f32. No value may be a NaN or an infinity.
void quantize_nvfp4(const float* values, int64_t rows, int64_t cols, float factor, uint8_t* codes,
                    uint8_t* group_scales);

}  // namespace fulgur
