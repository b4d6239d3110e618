// Inputs of small integers: every sum is exact in f32 in any order, so a kernel owes the very bits, and
// masses of scores tie.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <tuple>

#include "ops/indexer_select.h"
#include "ops/linear.h"
#include "ops/moe.h"
#include "reference/indexer_scores.h"
#include "reference/indexer_select.h"
#include "reference/linear.h"
#include "reference/moe.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

class ExactOps : public testing::TestWithParam<std::tuple<Tested, DType>> {
 protected:
  [[nodiscard]] DType dtype() const { return std::get<1>(GetParam()); }
  Buffer& integers(DType dtype, int64_t rows, int64_t cols, int64_t largest) {
    return machine_.add(dtype, rows, cols).fill([&](int64_t, int64_t) {
      return static_cast<double>(random_.integer(-largest, largest));
    });
  }

  /// What keys may be: dtype(), and FP8 in one of the two.
  [[nodiscard]] std::vector<DType> key_dtypes() const {
    if (dtype() == DType::kBf16 && machine_.backend().fp8_keys) return {dtype(), DType::kF8E4M3};
    return {dtype()};
  }

  Machine machine_{*std::get<0>(GetParam()).backend};
  Random random_{20};
};

/// The oracle's values, owed to the bit.
void expect_equal(const reference::Table& expected, const Buffer& actual) {
  for (int64_t r = 0; r < expected.rows; ++r) {
    for (int64_t c = 0; c < expected.cols; ++c) {
      ASSERT_EQ(actual.after(r, c), expected.at(r, c).value) << "[" << r << ", " << c << "]";
    }
  }
}

TEST_P(ExactOps, AProductOfIntegersHasNoError) {
  if (machine_.backend().linear == nullptr) GTEST_SKIP() << "this back end has no linear";
  for (const WeightForm form : kPlainForms) {
    for (const auto& [tokens, rows, cols] :
         {std::array{1, 40, 7168}, std::array{9, 33, 1000}, std::array{64, 70, 130}}) {
      Buffer& x = integers(dtype(), tokens, cols, 8);
      Buffer& w = integers(stored_dtype(form), rows, cols, 8);
      Buffer& y = machine_.add_output(DType::kF32, tokens, rows);
      Buffer& y_rounded = machine_.add_output(DType::kBf16, tokens, rows);
      machine_.upload();
      run(machine_.context(2),
          Linear{x.operand(Side::kBackend), w.weight(Side::kBackend), y.operand(Side::kBackend)});
      run(machine_.context(2),
          Linear{x.operand(Side::kBackend), w.weight(Side::kBackend), y_rounded.operand(Side::kBackend)});
      machine_.download();
      reference::Table exact = reference::linear(reference::values_of(x.operand(Side::kHost)),
                                                 reference::values_of(w.weight(Side::kHost)));
      expect_equal(exact, y);
      for (reference::Real& value : exact.data) value = reference::nearest_bf16(value.value);
      expect_equal(exact, y_rounded);
    }
  }
}

/// Integer queries and keys over one sequence of `length` tokens.
class IntegerIndexer {
 public:
  IntegerIndexer(Machine& machine, Random& random, DType dtype, IndexerShape shape,
                 const std::vector<Part>& parts, int topk, int64_t largest)
      : shape_(shape),
        batch_(machine, random, parts),
        q_(machine.add(dtype, batch_.num_tokens(), int64_t{shape.num_heads} * shape.head_dim)),
        head_weights_(machine.add(DType::kF32, batch_.num_tokens(), shape.num_heads)),
        pool_(machine, batch_, dtype, shape.head_dim),
        scores_(machine.add_output(DType::kF32, batch_.num_tokens(), batch_.max_context())),
        selected_(machine.add(DType::kI32, batch_.num_tokens(), topk).is_output()) {
    const auto integer = [&](int64_t, int64_t) {
      return static_cast<double>(random.integer(-largest, largest));
    };
    const bool fp8 = dtype == DType::kF8E4M3;
    q_.fill([&](int64_t row, int64_t col) {
      const double value = integer(row, col);
      return fp8 ? to_e4m3(static_cast<float>(value)) : value;
    });
    head_weights_.fill(integer);
    for (int s = 0; s < batch_.num_sequences(); ++s) {
      for (int position = 0; position < batch_.length(s); ++position) {
        const int64_t token = batch_.pool_token(s, position);
        for (int i = 0; i < shape.head_dim; ++i) pool_.set(token, i, integer(0, 0));
        if (fp8) pool_.set_scale(token, std::exp2(static_cast<float>(random.integer(-3, 3))));
      }
    }
  }

  void expect_exact(Machine& machine) {
    machine.upload();
    {
      const TokenBatch batch = batch_.rows(Side::kBackend);
      const auto q = q_.operand(Side::kBackend);
      const auto weights = head_weights_.matrix<const float>(Side::kBackend);
      run(machine.context(2), IndexerSelect{q, weights, pool_.keys(Side::kBackend), shape_, batch,
                                            selected_.matrix<int32_t>(Side::kBackend)});
      run(machine.context(2), IndexerScores{q, weights, pool_.keys(Side::kBackend), shape_, batch,
                                            scores_.matrix<float>(Side::kBackend)});
    }
    machine.download();
    const TokenBatch batch = batch_.rows(Side::kHost);
    const reference::Table exact = reference::indexer_scores(
        IndexerScores{q_.operand(Side::kHost), head_weights_.matrix<const float>(Side::kHost),
                      pool_.keys(Side::kHost), shape_, batch, scores_.matrix<float>(Side::kHost)});
    expect_equal(exact, scores_);
    for (int t = 0; t < batch_.num_tokens(); ++t) {
      std::vector<double> candidates;
      for (int s = 0; s <= batch_.position(t); ++s) candidates.push_back(exact.at(t, s).value);
      std::vector<int32_t> expected = reference::select_top<double>(candidates, selected_.cols());
      expected.resize(static_cast<size_t>(selected_.cols()), -1);
      std::vector<int32_t> selected;
      for (int64_t i = 0; i < selected_.cols(); ++i)
        selected.push_back(static_cast<int32_t>(selected_.after(t, i)));
      ASSERT_EQ(selected, expected) << "row " << t << " at position " << batch_.position(t);
    }
  }
  Buffer& q() { return q_; }
  Buffer& head_weights() { return head_weights_; }

 private:
  IndexerShape shape_;
  Batch batch_;
  Buffer& q_;
  Buffer& head_weights_;
  KeyPool pool_;
  Buffer& scores_;
  Buffer& selected_;
};

constexpr IndexerShape kSmall{.num_heads = 3, .head_dim = 4, .rope = 4, .rope_interleave = false};
constexpr IndexerShape kWide{.num_heads = 5, .head_dim = 128, .rope = 64, .rope_interleave = false};

TEST_P(ExactOps, TheSelectionTakesTheLowerPositionsOfManyEqualScores) {
  for (const int topk : {1, 2, 15, 16, 17, 63, 64, 65, 128, 1000}) {
    for (const DType keys : key_dtypes()) {
      IntegerIndexer indexer(machine_, random_, keys, kSmall, {{0, 20}, {60, 9}, {700, 3}, {1, 1}}, topk, 1);
      indexer.expect_exact(machine_);
    }
  }
}

TEST_P(ExactOps, TheSelectionIsExactWhereFewScoresTie) {
  for (const DType keys : key_dtypes()) {
    IntegerIndexer indexer(machine_, random_, keys, kWide, {{255, 4}, {0, 66}, {511, 1}}, 64, 3);
    indexer.expect_exact(machine_);
  }
}

TEST_P(ExactOps, TheSelectionOfPublishedShapesIsExact) {
  for (const DType keys : key_dtypes()) {
    if (keys != DType::kF8E4M3) continue;  // no kernel is made for these shapes in another form
    for (const int heads : {64, 32}) {
      const IndexerShape shape{.num_heads = heads, .head_dim = 128, .rope = 64, .rope_interleave = false};
      for (const int topk : {1, 64, 300}) {
        IntegerIndexer indexer(machine_, random_, keys, shape, {{255, 4}, {0, 3}, {411, 1}, {640, 2}}, topk,
                               1);
        indexer.expect_exact(machine_);
      }
      // A prompt's many rows of one sequence.
      IntegerIndexer prompt(machine_, random_, keys, shape, {{100, 40}}, 64, 2);
      prompt.expect_exact(machine_);
    }
  }
}

TEST_P(ExactOps, TheSelectionTakesMinusZeroForZero) {
  for (const DType keys : key_dtypes()) {
    IntegerIndexer indexer(machine_, random_, keys, kSmall, {{300, 2}}, 50, 1);
    // Negative weights make every score <= 0, and -0 where the ReLU cuts all heads.
    indexer.head_weights().fill([](int64_t, int64_t) { return -1; });
    indexer.expect_exact(machine_);
  }
}

TEST_P(ExactOps, TheSelectionTakesTheFirstPositionsWhenAllScoresAreZero) {
  for (const DType keys : key_dtypes()) {
    IntegerIndexer indexer(machine_, random_, keys, kSmall, {{400, 3}, {80, 2}}, 70, 1);
    indexer.q().fill([](int64_t, int64_t) { return 0; });
    indexer.expect_exact(machine_);
  }
}

/// Routing with logits among a handful of values: groups and experts tie all the time.
TEST_P(ExactOps, TheRouterTakesTheLowerGroupOrExpertOfEqualOnes) {
  if (machine_.backend().moe == nullptr) GTEST_SKIP() << "this back end has no moe";
  constexpr int kHidden = 24;
  constexpr int kExperts = 24;
  constexpr int kTokens = 40;
  for (const auto& [groups, kept, chosen] :
       {std::array{1, 1, 5}, std::array{6, 3, 4}, std::array{8, 2, 6}, std::array{4, 4, 24}}) {
    const MoeShape shape{.experts_per_token = chosen,
                         .num_groups = groups,
                         .groups_kept = kept,
                         .normalize = true,
                         .scaling = 2.5F};
    Batch batch(machine_, random_, {{3, 1}, {0, kTokens - 1}});
    Buffer& x = machine_.add(dtype(), kTokens, kHidden).fill([&](int64_t, int64_t c) {
      return c < 3 ? static_cast<double>(random_.integer(-1, 1)) : 0.0;
    });
    Buffer& router = integers(dtype(), kExperts, kHidden, 1);
    Buffer& bias = machine_.add(DType::kF32, 1, kExperts).fill([&](int64_t, int64_t) {
      return 0.25 * static_cast<double>(random_.integer(-3, 1));  // some choice scores are negative
    });
    Buffer& matrix = integers(DType::kBf16, kHidden, kHidden, 1);
    Buffer& delta = machine_.add_output(DType::kF32, kTokens, kHidden);
    Buffer& experts = machine_.add_output(DType::kI32, kTokens, chosen);
    Buffer& factors = machine_.add_output(DType::kF32, kTokens, chosen);
    machine_.upload();
    {
      const Weight square = matrix.weight(Side::kBackend);
      const std::vector<FfnWeights> all(kExperts, FfnWeights{square, square, square});
      const MoeWeights weights{router.weight(Side::kBackend), bias.weight(Side::kBackend), all, {}};
      const TokenBatch rows = batch.rows(Side::kBackend);
      run(machine_.context(2),
          Moe{x.operand(Side::kBackend), weights, shape, rows, delta.matrix<float>(Side::kBackend),
              experts.matrix<int32_t>(Side::kBackend), factors.matrix<float>(Side::kBackend)});
    }
    machine_.download();
    const reference::Table tokens = reference::values_of(x.operand(Side::kHost));
    for (int t = 0; t < kTokens; ++t) {
      const auto routing = reference::route(tokens.row(t), reference::values_of(router.weight(Side::kHost)),
                                            reference::values_of(bias.weight(Side::kHost)).row(0), shape);
      std::vector<int32_t> taken;
      for (int i = 0; i < chosen; ++i) taken.push_back(static_cast<int32_t>(experts.after(t, i)));
      ASSERT_EQ(taken, routing.experts) << "row " << t << ", " << groups << " groups";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(BackEnds, ExactOps,
                         testing::Combine(testing::ValuesIn(tested_backends()),
                                          testing::ValuesIn(kOperandDTypes)),
                         [](const testing::TestParamInfo<ExactOps::ParamType>& info) {
                           return short_name(std::get<0>(info.param)) + "_" +
                                  short_name(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace fulgur::test
