#include "checkpoint/dequantize.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "stored_forms.h"

namespace fulgur {
namespace {

std::vector<float> in_f32(const Weight& weight) {
  std::vector<float> values(static_cast<size_t>(weight.rows * weight.cols));
  dequantize(weight, WeightForm::kF32, reinterpret_cast<std::byte*>(values.data()));
  return values;
}
std::vector<float> in_bf16(const Weight& weight) {
  std::vector<Bf16> values(static_cast<size_t>(weight.rows * weight.cols));
  dequantize(weight, WeightForm::kBf16, reinterpret_cast<std::byte*>(values.data()));
  std::vector<float> widened;
  for (const Bf16 value : values) widened.push_back(to_float(value));
  return widened;
}

/// Codes that run through all that are no NaN.
std::vector<uint8_t> finite_codes(int64_t count) {
  std::vector<uint8_t> codes;
  for (int64_t i = 0; i < count; ++i) {
    const auto code = static_cast<uint8_t>(i * 37);
    codes.push_back((code & 0x7f) == 0x7f ? 0x11 : code);
  }
  return codes;
}

struct Blocks {
  const char* name;
  int64_t rows, cols, block_rows, block_cols;
};

class Fp8 : public ::testing::TestWithParam<Blocks> {
 protected:
  Fp8() {
    const Blocks& b = GetParam();
    const int64_t grid_rows = (b.rows + b.block_rows - 1) / b.block_rows;
    grid_cols_ = (b.cols + b.block_cols - 1) / b.block_cols;
    for (int64_t i = 0; i < grid_rows * grid_cols_; ++i) {
      scales_.push_back(0.013F * static_cast<float>(i + 1) + 1e-9F);
    }
    weight_ = {.form = WeightForm::kFp8,
               .rows = b.rows,
               .cols = b.cols,
               .data = codes_.data(),
               .scales = scales_.data(),
               .block_rows = b.block_rows,
               .block_cols = b.block_cols};
  }
  [[nodiscard]] double exact(int64_t row, int64_t col) const {
    const Blocks& b = GetParam();
    const auto at = static_cast<size_t>(row / b.block_rows * grid_cols_ + col / b.block_cols);
    return e4m3_value(codes_[static_cast<size_t>(row * b.cols + col)]) * static_cast<double>(scales_[at]);
  }

  std::vector<uint8_t> codes_ = finite_codes(GetParam().rows * GetParam().cols);
  std::vector<float> scales_;
  int64_t grid_cols_ = 0;
  Weight weight_;
};

TEST_P(Fp8, IsTheProductOfCodeAndScaleRoundedOnce) {
  const std::vector<float> f32 = in_f32(weight_);
  const std::vector<float> bf16 = in_bf16(weight_);
  for (int64_t row = 0; row < weight_.rows; ++row) {
    for (int64_t col = 0; col < weight_.cols; ++col) {
      const auto i = static_cast<size_t>(row * weight_.cols + col);
      ASSERT_EQ(f32[i], static_cast<float>(exact(row, col))) << row << " " << col;
      ASSERT_EQ(bf16[i], nearest_bf16(exact(row, col))) << row << " " << col;
    }
  }
}

TEST_P(Fp8, RowsKeepThePhaseOfTheirBlocks) {
  const std::vector<float> whole = in_f32(weight_);
  for (int64_t first = 0; first < weight_.rows; first += 7) {
    const int64_t count = std::min<int64_t>(weight_.rows - first, 131);
    const std::vector<float> part = in_f32(weight_.take_rows(first, count));
    const auto begin = whole.begin() + first * weight_.cols;
    ASSERT_EQ(part, std::vector<float>(begin, begin + count * weight_.cols)) << first;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, Fp8,
    ::testing::Values(Blocks{"blocks", 256, 256, 128, 128}, Blocks{"ragged", 192, 320, 128, 128},
                      Blocks{"fused_of_glm", 69, 144, 128, 128}, Blocks{"fused_of_v32", 132, 176, 128, 128},
                      Blocks{"smaller_than_a_block", 5, 3, 128, 128}, Blocks{"rows", 37, 65, 1, 65},
                      Blocks{"matrix", 200, 300, 200, 300}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Dequantize, RoundsToBf16OnceWhereTwoRoundingsWouldDiffer) {
  // 1.125 * (1 + 2^-4 + 2^-23) lies just above a tie of bf16 and rounds onto it in f32.
  const float scale = std::bit_cast<float>(std::bit_cast<uint32_t>(1.0F + 0x1p-8F / 1.125F));
  for (uint32_t ulp = 0; ulp < 64; ++ulp) {
    const float nearby = std::bit_cast<float>(std::bit_cast<uint32_t>(scale) + ulp - 32);
    const std::vector<uint8_t> code = {0x39};  // 1.125
    const Weight weight = {.form = WeightForm::kFp8,
                           .rows = 1,
                           .cols = 1,
                           .data = code.data(),
                           .scales = &nearby,
                           .block_rows = 128,
                           .block_cols = 128};
    EXPECT_EQ(in_bf16(weight)[0], nearest_bf16(1.125 * static_cast<double>(nearby)));
  }
}

TEST(Dequantize, KeepsANanCodeANanAndTheSignOfZero) {
  const std::vector<uint8_t> codes = {0x7f, 0xff, 0x80, 0x00};
  const float scale = 2;
  const Weight weight = {.form = WeightForm::kFp8,
                         .rows = 1,
                         .cols = 4,
                         .data = codes.data(),
                         .scales = &scale,
                         .block_rows = 128,
                         .block_cols = 128};
  for (const std::vector<float>& values : {in_f32(weight), in_bf16(weight)}) {
    EXPECT_TRUE(std::isnan(values[0]));
    EXPECT_TRUE(std::isnan(values[1]));
    EXPECT_TRUE(values[2] == 0 && std::signbit(values[2]));
    EXPECT_TRUE(values[3] == 0 && !std::signbit(values[3]));
  }
}

TEST(Dequantize, TakesTheLowNibbleForTheEvenColumnOfNvfp4) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kCols = 48;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;
  for (int64_t i = 0; i < kRows * kCols / 2; ++i) codes.push_back(static_cast<uint8_t>(i * 29));
  for (int64_t i = 0; i < kRows * kCols / 16; ++i) scales.push_back(static_cast<uint8_t>(i * 17 % 0x7f));
  for (const double global : {static_cast<double>(0.0123F), 1 / static_cast<double>(2688.0F)}) {
    const Weight weight = {.form = WeightForm::kNvfp4,
                           .rows = kRows,
                           .cols = kCols,
                           .data = codes.data(),
                           .scales = scales.data(),
                           .global = global};
    const std::vector<float> f32 = in_f32(weight);
    const std::vector<float> bf16 = in_bf16(weight);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t col = 0; col < kCols; ++col) {
        const int pair = codes[static_cast<size_t>((row * kCols + col) / 2)];
        const double exact = e2m1_value(col % 2 == 0 ? pair & 15 : pair >> 4) *
                             e4m3_value(scales[static_cast<size_t>((row * kCols + col) / 16)]) * global;
        ASSERT_EQ(f32[static_cast<size_t>(row * kCols + col)], static_cast<float>(exact));
        ASSERT_EQ(bf16[static_cast<size_t>(row * kCols + col)], nearest_bf16(exact));
      }
    }
    const std::vector<float> part = in_f32(weight.take_rows(2, 3));
    EXPECT_EQ(part, std::vector<float>(f32.begin() + 2 * kCols, f32.end()));
  }
}

TEST(Dequantize, HasNoOtherPairs) {
  const std::vector<uint8_t> codes(16);
  std::array<std::byte, 64> values;
  const Weight fp8 = {.form = WeightForm::kFp8, .rows = 1, .cols = 1, .data = codes.data()};
  const Weight bf16 = {.form = WeightForm::kBf16, .rows = 1, .cols = 1, .data = codes.data()};
  EXPECT_THROW(dequantize(fp8, WeightForm::kF16, values.data()), std::logic_error);
  EXPECT_THROW(dequantize(fp8, WeightForm::kFp8, values.data()), std::logic_error);
  EXPECT_THROW(dequantize(bf16, WeightForm::kF32, values.data()), std::logic_error);
}

}  // namespace
}  // namespace fulgur
