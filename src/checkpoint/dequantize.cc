#include "checkpoint/dequantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "checkpoint/convert.h"

// Products are taken in double, where those of a code with its scales are exact (e4m3 has 4 bits, f32 24,
// e2m1 2), but for the reciprocal of a divisor: an error of 2^-53, far below what the formats resolve.

namespace fulgur {
namespace {

void round_to(double value, float& result) { result = static_cast<float>(value); }

/// Through the float on the odd side of the value, so that the second rounding is the only one that counts.
void round_to(double value, Bf16& result) {
  const auto near = static_cast<float>(value);
  auto bits = std::bit_cast<uint32_t>(near);
  if (!std::isnan(value) && static_cast<double>(near) != value) {
    if (std::abs(static_cast<double>(near)) > std::abs(value)) --bits;
    bits |= 1U;
  }
  result = to_bf16(std::bit_cast<float>(bits));
}

/// All 256 codes are decoded once a block, and looked up.
template <typename T>
void dequantize_fp8(const Weight& w, T* values) {
  constexpr int kNumCodes = 256;
  std::array<T, kNumCodes> decoded;
  const auto* codes = static_cast<const uint8_t*>(w.data);
  for (int64_t first = 0; first < w.rows;) {
    const int64_t block_end = ((w.first_row + first) / w.block_rows + 1) * w.block_rows - w.first_row;
    const int64_t end = std::min(w.rows, block_end);
    const float* scale = w.block_scales(first);
    for (int64_t left = 0; left < w.cols; left += w.block_cols, ++scale) {
      for (int code = 0; code < kNumCodes; ++code) {
        const auto factor = static_cast<double>(*scale);
        round_to(e4m3_to_float(static_cast<uint8_t>(code)) * factor, decoded[static_cast<size_t>(code)]);
      }
      const int64_t right = std::min(w.cols, left + w.block_cols);
      for (int64_t row = first; row < end; ++row) {
        for (int64_t col = left; col < right; ++col)
          values[row * w.cols + col] = decoded[codes[row * w.cols + col]];
      }
    }
    first = end;
  }
}

template <typename T>
void dequantize_nvfp4(const Weight& w, T* values) {
  const auto* codes = static_cast<const uint8_t*>(w.data);
  for (int64_t row = 0; row < w.rows; ++row) {
    const uint8_t* scales = w.group_scales(row);
    for (int64_t col = 0; col < w.cols; ++col) {
      const uint8_t pair = codes[(row * w.cols + col) / kNvfp4CodesPerByte];
      const auto code = static_cast<uint8_t>(col % kNvfp4CodesPerByte == 0 ? pair & 0xfU : pair >> 4U);
      const double scale = static_cast<double>(e4m3_to_float(scales[col / kNvfp4Group])) * w.global;
      round_to(e2m1_to_float(code) * scale, values[row * w.cols + col]);
    }
  }
}

template <typename T>
void dequantize_to(const Weight& w, T* values) {
  w.form == WeightForm::kFp8 ? dequantize_fp8(w, values) : dequantize_nvfp4(w, values);
}

}  // namespace

void dequantize(const Weight& weight, WeightForm to, std::byte* values) {
  if (!is_plain(weight.form) && to == WeightForm::kBf16) {
    dequantize_to(weight, reinterpret_cast<Bf16*>(values));
  } else if (!is_plain(weight.form) && to == WeightForm::kF32) {
    dequantize_to(weight, reinterpret_cast<float*>(values));
  } else {
    throw std::logic_error(fmt::format("no dequantization from {} to {}", name(weight.form), name(to)));
  }
}

void convert_rows(const Weight& from, WeightForm to, std::byte* values) {
  if (is_plain(from.form)) {
    convert(stored_dtype(from.form), static_cast<const std::byte*>(from.data), stored_dtype(to), values,
            from.rows * from.cols);
  } else {
    dequantize(from, to, values);
  }
}

}  // namespace fulgur
