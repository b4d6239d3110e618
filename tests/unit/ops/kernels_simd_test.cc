#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "built_isas.h"
#include "kernels_support.h"
#include "simd_probe.h"

namespace fulgur {
namespace cpu {

#define FULGUR_DECLARE(isa)                \
  namespace isa {                          \
  extern const test::SimdProbe kSimdProbe; \
  }
FULGUR_BUILT_ISAS(FULGUR_DECLARE)

}  // namespace cpu

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

const test::SimdProbe& probe(Isa isa) {
#define FULGUR_ENTRY(isa) {#isa, &cpu::isa::kSimdProbe},
  static const std::map<std::string_view, const test::SimdProbe*> kProbes = {FULGUR_BUILT_ISAS(FULGUR_ENTRY)};
  return *kProbes.at(name(isa));
}

/// 100,003 points, ascending; an odd count, so that tails run.
std::vector<float> points(float low, float high) {
  constexpr int kCount = 100003;
  std::vector<float> x(kCount);
  for (int i = 0; i < kCount; ++i)
    x[static_cast<size_t>(i)] = low + (high - low) * static_cast<float>(i) / (kCount - 1);
  return x;
}

using Function = void (*)(const float*, int64_t, float*);
std::vector<float> evaluate(Function function, const std::vector<float>& x) {
  std::vector<float> out(x.size());
  function(x.data(), static_cast<int64_t>(x.size()), out.data());
  return out;
}

/// |value - exact| in units of the last place of exact.
double ulps(float value, double exact) {
  const auto rounded = std::abs(static_cast<float>(exact));
  const double ulp = std::nextafter(rounded, kInfinity) - rounded;
  return std::abs(value - exact) / ulp;
}

class Simd : public testing::TestWithParam<Isa> {};
INSTANTIATE_TEST_SUITE_P(Isas, Simd, testing::ValuesIn(test::runnable_isas()),
                         [](const auto& info) { return std::string(name(info.param)); });

TEST_P(Simd, ExpIsWithinTwoUlp) {
  const std::vector<float> x = points(-86.9F, 88.7F);
  const std::vector<float> y = evaluate(probe(GetParam()).exp, x);
  for (size_t i = 0; i < x.size(); ++i) ASSERT_LE(ulps(y[i], std::exp(double{x[i]})), 2) << x[i];
}

TEST_P(Simd, ExpKeepsItsEnds) {
  const std::vector<float> y =
      evaluate(probe(GetParam()).exp, {0.0F, -0.0F, -kInfinity, kInfinity, -1000.0F, 1000.0F, std::nanf("")});
  EXPECT_EQ(y[0], 1);
  EXPECT_EQ(y[1], 1);
  EXPECT_EQ(y[2], 0);
  EXPECT_EQ(y[3], kInfinity);
  EXPECT_EQ(y[4], 0);
  EXPECT_EQ(y[5], kInfinity);
  EXPECT_TRUE(std::isnan(y[6]));
}

TEST_P(Simd, SigmoidAndSiluAreWithinFourUlp) {
  // exp's 2 ulp, the sum and the quotient; below -80 the results near the smallest normal number.
  const std::vector<float> x = points(-80, 100);
  const std::vector<float> sigmoid = evaluate(probe(GetParam()).sigmoid, x);
  const std::vector<float> silu = evaluate(probe(GetParam()).silu, x);
  for (size_t i = 0; i < x.size(); ++i) {
    const double exact = 1 / (1 + std::exp(-double{x[i]}));
    ASSERT_LE(ulps(sigmoid[i], exact), 4) << x[i];
    ASSERT_LE(ulps(silu[i], exact * x[i]), 4) << x[i];
  }
  const std::vector<float> ends = evaluate(probe(GetParam()).silu, {-1000.0F, 1000.0F, 0.0F});
  EXPECT_EQ(ends[0], 0);
  EXPECT_EQ(ends[1], 1000);
  EXPECT_EQ(ends[2], 0);
}

TEST_P(Simd, StoresBf16AsTheBaseRoundsIt) {
  std::vector<float> x = {0.0F,
                          -0.0F,
                          kInfinity,
                          -kInfinity,
                          std::nanf(""),
                          1e-40F,
                          -1e-45F,
                          std::numeric_limits<float>::max(),
                          std::bit_cast<float>(0x7f800001U)};
  std::mt19937 generator(7);
  for (int i = 0; i < 100000; ++i) x.push_back(std::bit_cast<float>(static_cast<uint32_t>(generator())));
  for (uint32_t high = 0x3f80; high < 0x3f90; ++high)
    x.push_back(std::bit_cast<float>((high << 16) | 0x8000U));  // ties
  std::vector<Bf16> y(x.size());
  probe(GetParam()).to_bf16(x.data(), static_cast<int64_t>(x.size()), y.data());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(y[i].bits, to_bf16(x[i]).bits) << std::hex << std::bit_cast<uint32_t>(x[i]);
  }
}

TEST_P(Simd, DecodesEveryFp8CodeExactly) {
  std::vector<uint8_t> codes(256);
  std::iota(codes.begin(), codes.end(), uint8_t{0});
  std::ranges::shuffle(codes, std::mt19937(9));
  std::vector<Bf16> values(codes.size());
  probe(GetParam()).from_e4m3(codes.data(), values.data());
  for (size_t i = 0; i < codes.size(); ++i) {
    const auto exact = std::bit_cast<uint32_t>(e4m3_to_float(codes[i]));
    ASSERT_EQ(uint32_t{values[i].bits} << 16, exact) << int{codes[i]};
  }
}

TEST_P(Simd, TurnsPairsOfBytesRound) {
  constexpr size_t kFrom = 22;  // bytes from row to row
  constexpr size_t kTo = 18;
  std::vector<uint8_t> from(8 * kFrom);
  std::iota(from.begin(), from.end(), uint8_t{0});
  std::vector<uint8_t> to(8 * kTo);
  probe(GetParam()).transpose_pairs(from.data(), kFrom, to.data(), kTo);
  for (size_t i = 0; i < 8; ++i) {
    for (size_t j = 0; j < 16; ++j) {
      ASSERT_EQ(to[i * kTo + j], from[j / 2 * kFrom + 2 * i + j % 2]) << i << ", " << j;
    }
  }
}

TEST_P(Simd, AddsLanesInOneTreeHoweverManyVectorsAtOnce) {
  std::vector<float> x(4096);
  std::mt19937 generator(8);
  std::normal_distribution<float> normal;
  for (float& value : x) value = normal(generator) * 1000;
  EXPECT_EQ(evaluate(probe(GetParam()).sums, x), evaluate(probe(GetParam()).sums4, x));
}

/// The indices of the k largest by sorting: higher first, then the lower index; ascending.
std::vector<int32_t> top_k_by_sorting(const std::vector<float>& scores, size_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater(), [&](int32_t i) { return scores[static_cast<size_t>(i)]; });
  order.resize(std::min(k, order.size()));
  std::ranges::sort(order);
  return order;
}

TEST_P(Simd, TopKIsWhatSortingGives) {
  EXPECT_TRUE(rc::check([&] {
    // Of few values, so that ties are common; of all magnitudes; and of all bit patterns but NaN.
    const auto few =
        rc::gen::map(rc::gen::inRange(-3, 4), [](int i) { return 0.25F * static_cast<float>(i); });
    const auto special =
        rc::gen::element(0.0F, -0.0F, kInfinity, -kInfinity, 1e-45F, -1e-45F, 3.4e38F, -3.4e38F);
    const auto any = rc::gen::map(rc::gen::arbitrary<uint32_t>(), [](uint32_t bits) {
      const auto value = std::bit_cast<float>(bits);
      return std::isnan(value) ? 1.0F : value;
    });
    const auto near = rc::gen::map(rc::gen::inRange<uint32_t>(0, 1000),
                                   [](uint32_t i) { return std::bit_cast<float>(0x3f800000U + i); });
    const rc::Gen<float> kinds[] = {few, special, any, near, rc::gen::oneOf(few, special, any, near)};
    const rc::Gen<float>& value = kinds[*rc::gen::inRange<size_t>(0, std::size(kinds))];
    const auto n = *rc::gen::inRange<int64_t>(1, 700);
    const auto k = *rc::gen::inRange<int64_t>(1, 300);
    const auto scores = *rc::gen::container<std::vector<float>>(static_cast<size_t>(n), value);

    const int64_t most = (n + 63) / 64 * 64;
    std::vector<float> padded = scores;
    padded.resize(static_cast<size_t>(most));
    std::vector<float> scratch(static_cast<size_t>(4 * most));
    std::vector<int32_t> best(static_cast<size_t>(std::min(k, n)));
    RC_ASSERT(probe(GetParam()).top_k(padded.data(), n, most, k, scratch.data(), best.data()));
    RC_ASSERT(best == top_k_by_sorting(scores, static_cast<size_t>(k)));
  }));
}

}  // namespace
}  // namespace fulgur
