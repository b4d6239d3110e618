// What FP8 and NVFP4 weights promise beyond the table: the value of every code, and rows taken of a matrix.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "ops/linear.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

/// Few rows of x decode as they go, many share a panel.
constexpr int kFew = 1;
constexpr int kMany = 40;

class QuantizedLinear : public testing::TestWithParam<std::tuple<Tested, DType>> {
 protected:
  [[nodiscard]] DType dtype() const { return std::get<1>(GetParam()); }
  Buffer& product(Buffer& x, const WeightBuffer& w) {
    Buffer& y = machine_.add_output(DType::kF32, x.rows(), w.weight(Side::kHost).rows);
    machine_.upload();
    run(machine_.context(2),
        Linear{x.operand(Side::kBackend), w.weight(Side::kBackend), y.operand(Side::kBackend)});
    machine_.download();
    return y;
  }

  Machine machine_{*std::get<0>(GetParam()).backend};
  Random random_{5};
};

TEST_P(QuantizedLinear, Fp8IsExactForEveryCode) {
  // Row r holds code r once, in a block of its own scale; x is ones. In every place of a step once.
  constexpr float kScales[] = {0.3F, 1000.1F, 1e-6F};
  constexpr int64_t kCols = 300;
  Buffer& codes = machine_.add(DType::kF8E4M3, 256, kCols, {.shift = 1}).fill([](int64_t r, int64_t c) {
    return c == r ? static_cast<double>(r) : 0.0;
  });
  Buffer& scales = machine_.add(DType::kF32, 2, 3).fill([&](int64_t, int64_t c) { return kScales[c]; });
  const WeightBuffer w(
      {.form = WeightForm::kFp8, .rows = 256, .cols = kCols, .block_rows = 128, .block_cols = 128}, codes,
      &scales);
  for (const int tokens : {kFew, kMany}) {
    Buffer& ones = machine_.add(dtype(), tokens, kCols).fill([](int64_t, int64_t) { return 1; });
    const Buffer& y = product(ones, w);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < 256; ++r) {
        const float exact = e4m3_to_float(static_cast<uint8_t>(r)) * kScales[r / 128];
        if (std::isnan(exact)) {
          ASSERT_TRUE(std::isnan(y.after(t, r))) << "code " << r;
        } else {
          ASSERT_EQ(y.after(t, r), exact) << "code " << r;
        }
      }
    }
  }
}

TEST_P(QuantizedLinear, Fp8TakesActivationsOfAnyMagnitude) {
  // 1.0 * scale against x alone in its row, beside one that decides how far the row could have been scaled.
  constexpr uint8_t kOne = 0x38;
  constexpr float kScale = 0.3F;
  Buffer& codes =
      machine_.add(DType::kF8E4M3, 1, 40).fill([](int64_t, int64_t c) { return c == 3 ? kOne : 0; });
  Buffer& scales = machine_.add(DType::kF32, 1, 1).fill([](int64_t, int64_t) { return kScale; });
  const WeightBuffer w(
      {.form = WeightForm::kFp8, .rows = 1, .cols = 40, .block_rows = 128, .block_cols = 128}, codes,
      &scales);
  for (const float value : {0x1p127F, -0x1.8p60F, 1.0F, 0x1p-60F, 0x1p-110F, 0.0F}) {
    for (const float other : {0.0F, 0x1.5p10F, -0x1p40F}) {
      if (other != 0 && std::abs(value) < 0x1p-80F) continue;
      for (const int tokens : {kFew, kMany}) {
        Buffer& x = machine_.add(dtype(), tokens, 40).fill([&](int64_t, int64_t c) {
          return c == 3 ? value : c == 5 ? other : 0.0F;
        });
        const Buffer& y = product(x, w);
        for (int64_t t = 0; t < tokens; ++t)
          ASSERT_EQ(y.after(t, 0), value * kScale) << value << " beside " << other;
      }
    }
  }
}

TEST_P(QuantizedLinear, Nvfp4IsExactForEveryCodeAndScale) {
  // Row r has the scale r; token c sees column c alone, which holds code c % 16.
  constexpr int64_t kCols = 64;
  const double global = 1.0 / 3;
  Buffer& codes = machine_.add(DType::kU8, 256, kCols / 2, {.shift = 1}).fill([](int64_t, int64_t pair) {
    return static_cast<double>(pair * 2 % 16 + (pair * 2 + 1) % 16 * 16);
  });
  Buffer& scales = machine_.add(DType::kF8E4M3, 256, kCols / 16, {.shift = 1}).fill([](int64_t r, int64_t) {
    return static_cast<double>(r);
  });
  const WeightBuffer w({.form = WeightForm::kNvfp4, .rows = 256, .cols = kCols, .global = global}, codes,
                       &scales);
  Buffer& unit =
      machine_.add(dtype(), kCols, kCols).fill([](int64_t t, int64_t c) { return t == c ? 1 : 0; });
  Buffer& first = machine_.add(dtype(), kFew, kCols).fill([](int64_t, int64_t c) { return c == 7 ? 1 : 0; });
  const auto expect = [&](float y, int64_t r, int64_t c) {
    const float exact = e2m1_to_float(static_cast<uint8_t>(c % 16)) * e4m3_to_float(static_cast<uint8_t>(r)) *
                        static_cast<float>(global);
    if (std::isnan(exact)) {
      ASSERT_TRUE(std::isnan(y)) << "scale " << r;
    } else {
      ASSERT_EQ(y, exact) << "scale " << r << ", code " << c % 16;
    }
  };
  const Buffer& many = product(unit, w);
  for (int64_t r = 0; r < 256; ++r) {
    for (int64_t c = 0; c < kCols; ++c) expect(static_cast<float>(many.after(c, r)), r, c);
  }
  const Buffer& few = product(first, w);
  for (int64_t r = 0; r < 256; ++r) expect(static_cast<float>(few.after(0, r)), r, 7);
}

TEST_P(QuantizedLinear, RowsTakenOfAMatrixGiveTheBitsOfTheWhole) {
  constexpr int64_t kRows = 300;
  for (const WeightForm form : {WeightForm::kFp8, WeightForm::kNvfp4}) {
    for (const int tokens : {kFew, kMany}) {
      Buffer& x = machine_.add(dtype(), tokens, 592).fill_normal(random_, 1);
      const WeightBuffer& w = machine_.add_weight(random_, form, kRows, 592);
      const Buffer& whole = product(x, w);
      std::vector<double> expected;  // an upload clears it
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t o = 0; o < kRows; ++o) expected.push_back(whole.after(t, o));
      }
      for (const auto& [first, count] : {std::pair{0, 17}, {17, 116}, {133, 1}, {134, 166}}) {
        Buffer& part = machine_.add_output(DType::kF32, tokens, count);
        machine_.upload();
        run(machine_.context(1),
            Linear{x.operand(Side::kBackend), w.weight(Side::kBackend).take_rows(first, count),
                   part.operand(Side::kBackend)});
        machine_.download();
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t o = 0; o < count; ++o)
            ASSERT_EQ(part.after(t, o), expected[static_cast<size_t>(t * kRows + first + o)])
                << name(form) << " row " << first + o;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BackEnds, QuantizedLinear,
                         testing::Combine(testing::ValuesIn(tested_backends()),
                                          testing::ValuesIn(kOperandDTypes)),
                         [](const testing::TestParamInfo<QuantizedLinear::ParamType>& info) {
                           return short_name(std::get<0>(info.param)) + "_" +
                                  short_name(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace fulgur::test
