#include "base/weight.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace fulgur {
namespace {

constexpr WeightForm kForms[] = {WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32, WeightForm::kFp8,
                                 WeightForm::kNvfp4};

TEST(WeightForm, HasTheNameAndTheRowBytesOfItsElements) {
  const std::string_view names[] = {"bf16", "f16", "f32", "fp8", "nvfp4"};
  const int64_t bytes_of_48[] = {96, 96, 192, 48, 24};
  for (size_t i = 0; i < std::size(kForms); ++i) {
    EXPECT_EQ(name(kForms[i]), names[i]);
    EXPECT_EQ(row_bytes(kForms[i], 48), bytes_of_48[i]) << names[i];
  }
}

TEST(WeightForm, IsPlainWhereADTypeAloneSaysIt) {
  for (const WeightForm form : kForms) {
    const bool plain = form != WeightForm::kFp8 && form != WeightForm::kNvfp4;
    EXPECT_EQ(is_plain(form), plain) << name(form);
    EXPECT_EQ(plain_form(stored_dtype(form)).has_value(), plain) << name(form);
    if (plain) {
      EXPECT_EQ(plain_form(stored_dtype(form)), form);
    }
  }
}

TEST(Weight, TakesRowsOfAPlainForm) {
  const std::vector<float> data(40);
  const Weight whole{WeightForm::kF32, 10, 4, data.data()};
  const Weight part = whole.take_rows(3, 5);
  EXPECT_EQ(part.data, data.data() + 12);
  EXPECT_EQ(part.rows, 5);
  EXPECT_EQ(part.cols, 4);
  EXPECT_EQ(part.take_rows(2, 1).data, data.data() + 20);
}

TEST(Weight, RowsTakenOfFp8KeepThePhaseOfTheBlockGrid) {
  // 300 rows of 200 columns: 3 x 2 blocks, both last ones ragged.
  const std::vector<uint8_t> codes(300 * 200);
  const std::vector<float> scales(6);
  const Weight whole{.form = WeightForm::kFp8,
                     .rows = 300,
                     .cols = 200,
                     .data = codes.data(),
                     .scales = scales.data(),
                     .block_rows = 128,
                     .block_cols = 128};
  const Weight part = whole.take_rows(100, 150).take_rows(20, 130);  // begins at row 120
  EXPECT_EQ(part.data, codes.data() + 120 * 200);
  for (int64_t r = 0; r < part.rows; ++r) {
    EXPECT_EQ(part.block_scales(r), scales.data() + (120 + r) / 128 * 2) << r;
  }
}

TEST(Weight, OneScaleARowOrAMatrixIsABlockGridToo) {
  const std::vector<uint8_t> codes(10 * 24);
  const std::vector<float> scales(10);
  Weight weight{.form = WeightForm::kFp8,
                .rows = 10,
                .cols = 24,
                .data = codes.data(),
                .scales = scales.data(),
                .block_rows = 1,
                .block_cols = 24};
  EXPECT_EQ(weight.take_rows(4, 3).block_scales(2), scales.data() + 6);
  weight.block_rows = 10;
  EXPECT_EQ(weight.take_rows(4, 3).block_scales(2), scales.data());
}

TEST(Weight, RowsTakenOfNvfp4TakeTheirScalesAlong) {
  const std::vector<uint8_t> codes(10 * 24);
  const std::vector<uint8_t> scales(10 * 3);
  const Weight whole{.form = WeightForm::kNvfp4,
                     .rows = 10,
                     .cols = 48,
                     .data = codes.data(),
                     .scales = scales.data(),
                     .global = 0.25};
  const Weight part = whole.take_rows(2, 8).take_rows(5, 3);
  EXPECT_EQ(part.data, codes.data() + 7 * 24);
  EXPECT_EQ(part.group_scales(1), scales.data() + 8 * 3);
  EXPECT_EQ(part.global, 0.25);
}

}  // namespace
}  // namespace fulgur
