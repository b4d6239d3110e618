#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/dtype.h"

namespace fulgur {

/// How a weight matrix is stored in memory.
enum class WeightForm : uint8_t { kBf16, kF16, kF32, kFp8, kNvfp4 };

/// "bf16", "f16", "f32", "fp8", "nvfp4"
std::string_view name(WeightForm form);

/// Whether a weight is its stored elements alone, without scales.
constexpr bool is_plain(WeightForm form) { return form <= WeightForm::kF32; }
/// The form that stores elements of this dtype as they are; empty where there is none.
constexpr std::optional<WeightForm> plain_form(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return WeightForm::kBf16;
    case DType::kF16:
      return WeightForm::kF16;
    case DType::kF32:
      return WeightForm::kF32;
    default:
      return std::nullopt;
  }
}
/// What safetensors calls the elements at Weight::data.
constexpr DType stored_dtype(WeightForm form) {
  constexpr DType kDTypes[] = {DType::kBf16, DType::kF16, DType::kF32, DType::kF8E4M3, DType::kU8};
  return kDTypes[static_cast<int>(form)];
}

/// NVFP4: two codes a byte, the low nibble is the even column; a scale for every 16 columns of a row.
constexpr int64_t kNvfp4CodesPerByte = 2;
constexpr int64_t kNvfp4Group = 16;

/// Bytes of a row of `cols` columns at Weight::data. (NVFP4: cols is a multiple of kNvfp4Group.)
constexpr int64_t row_bytes(WeightForm form, int64_t cols) {
  if (form == WeightForm::kNvfp4) return cols / kNvfp4CodesPerByte;
  constexpr int64_t kWidths[] = {2, 2, 4, 1};
  return cols * kWidths[static_cast<int>(form)];
}

/// FP8: what kernels may sum before they look at a scale; Weight::block_cols is a multiple of it.
constexpr int64_t kFp8BlockGrain = 128;

/// A weight matrix [rows, cols] as stored, `y = x W^T`: rows are outputs and each row is contiguous. A view;
/// the loader owns the memory. Every storage form has its kernels.
///
///   kBf16, kF16, kF32  W[r, c] = data[r, c]
///   kFp8               W[r, c] = e4m3(data[r, c]) * scales[(first_row + r) / block_rows, c / block_cols]
///   kNvfp4             W[r, c] = e2m1(data[r, c]) * e4m3(scales[r, c / 16]) * global
struct Weight {
  WeightForm form = WeightForm::kBf16;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* data = nullptr;
  /// kFp8: float, the row-major grid [ceil(R / block_rows), ceil(cols / block_cols)] of the whole matrix of R
  /// rows that this view is of. kNvfp4: e4m3 [rows, cols / 16], from this view's first row on.
  const void* scales = nullptr;
  /// kFp8: 128 x 128; 1 x cols for one scale a row; R x cols for one scale a matrix. A block that doesn't
  /// span all columns spans a multiple of kFp8BlockGrain.
  int64_t block_rows = 0;
  int64_t block_cols = 0;
  double global = 1;      // kNvfp4: weight_scale_2, or 1 / weight_global_scale
  int64_t first_row = 0;  // kFp8: of the whole matrix, where this view begins

  [[nodiscard]] bool present() const { return data != nullptr; }
  /// kFp8: the scales of row r, one for every block of block_cols columns.
  [[nodiscard]] const float* block_scales(int64_t r) const {
    const int64_t blocks = (cols + block_cols - 1) / block_cols;
    return static_cast<const float*>(scales) + (first_row + r) / block_rows * blocks;
  }
  /// kNvfp4: the scales of row r, one for every 16 columns.
  [[nodiscard]] const uint8_t* group_scales(int64_t r) const {
    return static_cast<const uint8_t*>(scales) + r * (cols / kNvfp4Group);
  }
  /// Rows [first, first + count).
  [[nodiscard]] Weight take_rows(int64_t first, int64_t count) const {
    Weight part = *this;
    part.rows = count;
    if (present()) part.data = static_cast<const std::byte*>(data) + first * row_bytes(form, cols);
    if (form == WeightForm::kFp8) part.first_row += first;
    if (form == WeightForm::kNvfp4) part.scales = group_scales(first);
    return part;
  }
};

}  // namespace fulgur
