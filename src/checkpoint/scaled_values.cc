#include "checkpoint/scaled_values.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/printable.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/find_value.h"
#include "checkpoint/quantize.h"

namespace fulgur {
namespace {

/// Codes of 0 have no bit set but the sign.
bool all_zero(const uint8_t* codes, int64_t count, uint8_t magnitude) {
  return std::none_of(codes, codes + count, [&](uint8_t code) { return (code & magnitude) != 0; });
}

}  // namespace

std::optional<ScalePlace> first_zero_scale(const Weight& w, int64_t first_row) {
  const auto* codes = static_cast<const uint8_t*>(w.data);
  const bool fp8 = w.form == WeightForm::kFp8;
  const int64_t width = fp8 ? w.block_cols : kNvfp4Group;
  const int64_t blocks = (w.cols + width - 1) / width;
  for (int64_t r = 0; r < w.rows; ++r) {
    for (int64_t b = 0; b < blocks; ++b) {
      const bool zero = fp8 ? w.block_scales(r)[b] == 0 : (w.group_scales(r)[b] & 0x7f) == 0;
      if (!zero) continue;
      const int64_t count = std::min(width, w.cols - b * width);
      const int64_t at = r * w.cols + b * width;
      const bool all = fp8 ? all_zero(codes + at, count, 0x7f)
                           : all_zero(codes + at / kNvfp4CodesPerByte, count / kNvfp4CodesPerByte, 0x77);
      if (!all) return ScalePlace{(first_row + r) / (fp8 ? w.block_rows : 1), b, blocks};
    }
  }
  return std::nullopt;
}

Problem zero_scale_problem(const CatalogEntry& scale, const CatalogEntry& weight, const ScalePlace& place) {
  const std::string index =
      index_text(scale, place.row * place.cols + place.col, scale.shape.empty() ? 1 : scale.shape.back());
  return {.kind = ErrorKind::kBadScale,
          .tensor = scale.name,
          .message = fmt::format("{}{} is 0, but the codes of {} that it scales are not.",
                                 printable(scale.name), index, printable(weight.name)),
          .expected = "a scale above 0, or codes of 0 alone",
          .found = fmt::format("a scale of 0 at {}", index),
          .todo = "fetch this file again, or convert again"};
}

Problem infinite_product_problem(const CatalogEntry& weight, int64_t element, int64_t cols) {
  const std::string index = index_text(weight, element, cols);
  return {.kind = ErrorKind::kBadValue,
          .tensor = weight.name,
          .message = fmt::format("{}{} becomes infinite when it is multiplied by its scale.",
                                 printable(weight.name), index),
          .expected = "products of codes and scales that bf16 can hold",
          .found = fmt::format("a product at {} that is larger", index),
          .todo = "fetch this file again, or convert again"};
}

bool may_overflow(const Weight& w) {
  if (is_plain(w.form)) return false;
  if (w.form == WeightForm::kNvfp4) return double{kMostE4m3} * kMostE2m1 * w.global > kMostBf16;
  const int64_t grid_cols = (w.cols + w.block_cols - 1) / w.block_cols;
  const int64_t grid_rows = (w.first_row + w.rows - 1) / w.block_rows - w.first_row / w.block_rows + 1;
  const float* scales = w.block_scales(0);
  return double{*std::max_element(scales, scales + grid_rows * grid_cols)} * kMostE4m3 > kMostBf16;
}

std::optional<int64_t> first_overflow(const Weight& w) {
  if (!may_overflow(w)) return std::nullopt;
  std::vector<std::byte> values(static_cast<size_t>(w.rows * w.cols) * sizeof(Bf16));
  convert_rows(w, WeightForm::kBf16, values.data());
  return first_infinite_bf16(values.data(), w.rows * w.cols);
}

}  // namespace fulgur
