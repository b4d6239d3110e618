// A NaN fails its own sequence and nobody else: -1, a fault bit, and the same bits as ever in all other rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "ops/indexer_select.h"
#include "ops/mla_attention.h"
#include "ops/moe.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

constexpr int kFaulty = 1;  // the sequence that gets the NaN
const std::vector<Part> kParts = {{90, 3}, {80, 4}, {0, 30}};

class FaultyStep : public testing::TestWithParam<std::tuple<Tested, DType>> {
 protected:
  [[nodiscard]] DType dtype() const { return std::get<1>(GetParam()); }
  [[nodiscard]] int rows() const { return batch_.num_tokens(); }
  [[nodiscard]] bool is_faulty(int row) const { return batch_.sequence(row) == kFaulty; }

  FaultyStep() { batch_.may_fault(); }

  /// Only the faulty sequence's bit is set; `clean` is what another row held without the NaN.
  void expect_contained(const Buffer& out, const std::vector<std::vector<double>>& clean) const {
    for (int s = 0; s < batch_.num_sequences(); ++s)
      EXPECT_EQ(batch_.fault_after(s), s == kFaulty ? kFaultNan : 0U) << s;
    for (int row = 0; row < rows(); ++row) {
      if (is_faulty(row)) continue;
      EXPECT_EQ(values(out, row), clean[static_cast<size_t>(row)]) << "row " << row;
    }
    machine_.expect_no_trespass();
  }
  static std::vector<double> values(const Buffer& buffer, int row) {
    std::vector<double> all;
    for (int64_t c = 0; c < buffer.cols(); ++c) all.push_back(buffer.after(row, c));
    return all;
  }
  [[nodiscard]] std::vector<std::vector<double>> all_values(const Buffer& buffer) const {
    std::vector<std::vector<double>> all;
    for (int row = 0; row < rows(); ++row) all.push_back(values(buffer, row));
    return all;
  }
  void expect_no_fault() const {
    for (int s = 0; s < batch_.num_sequences(); ++s) ASSERT_EQ(batch_.fault_after(s), 0U);
  }
  /// The first row of the faulty sequence.
  [[nodiscard]] int faulty_row() const {
    int row = 0;
    while (!is_faulty(row)) ++row;
    return row;
  }

  Machine machine_{*std::get<0>(GetParam()).backend};
  Random random_{30};
  Batch batch_{machine_, random_, kParts};
};

class FaultySelection : public FaultyStep {
 protected:
  static constexpr IndexerShape kShape{.num_heads = 3, .head_dim = 32, .rope = 16, .rope_interleave = false};
  static constexpr int kTopk = 20;

  FaultySelection() {
    for (int s = 0; s < batch_.num_sequences(); ++s) {
      for (int position = 0; position < batch_.length(s); ++position) {
        for (int i = 0; i < kShape.head_dim; ++i)
          pool_.set(batch_.pool_token(s, position), i, random_.normal());
      }
    }
  }
  void run_op() {
    machine_.upload();
    const TokenBatch rows = batch_.rows(Side::kBackend);
    run(machine_.context(2),
        IndexerSelect{q_.operand(Side::kBackend), weights_.matrix<const float>(Side::kBackend),
                      pool_.keys(Side::kBackend), kShape, rows, selected_.matrix<int32_t>(Side::kBackend)});
    machine_.download();
  }

  const std::vector<double> no_choice_ = std::vector<double>(kTopk, -1);
  Buffer& q_ = machine_.add(dtype(), rows(), 3 * 32).fill_normal(random_, 1);
  Buffer& weights_ = machine_.add(DType::kF32, rows(), 3).fill_normal(random_, 1);
  KeyPool pool_{machine_, batch_, dtype(), 32};
  Buffer& selected_ = machine_.add_output(DType::kI32, rows(), kTopk);
};

TEST_P(FaultySelection, ANanQueryGivesARowOfMinusOnesAndTheFaultBit) {
  run_op();
  expect_no_fault();
  const auto clean = all_values(selected_);
  q_.set(faulty_row() + 1, 40, std::nan(""));
  run_op();
  expect_contained(selected_, clean);
  EXPECT_EQ(values(selected_, faulty_row() + 1), no_choice_);
  EXPECT_EQ(values(selected_, faulty_row()),
            clean[static_cast<size_t>(faulty_row())]);  // scored nothing that is NaN
}

TEST_P(FaultySelection, ANanHeadWeightGivesARowOfMinusOnesAndTheFaultBit) {
  run_op();
  const auto clean = all_values(selected_);
  weights_.set(faulty_row(), 2, std::nan(""));
  run_op();
  expect_contained(selected_, clean);
  EXPECT_EQ(values(selected_, faulty_row()), no_choice_);
}

TEST_P(FaultySelection, ANanKeyFailsTheRowsThatMayScoreIt) {
  run_op();
  const auto clean = all_values(selected_);
  const int last = batch_.length(kFaulty) - 1;  // only the last row sees this key
  pool_.set(batch_.pool_token(kFaulty, last), 7, std::nan(""));
  run_op();
  expect_contained(selected_, clean);
  const int last_row = faulty_row() + kParts[kFaulty].count - 1;
  EXPECT_EQ(values(selected_, last_row), no_choice_);
  EXPECT_EQ(values(selected_, last_row - 1), clean[static_cast<size_t>(last_row - 1)]);
}

TEST_P(FaultySelection, ANanThatARowReadingAllWouldScoreIsNotSeen) {
  run_op();
  const auto clean = all_values(selected_);
  for (int row = 0; row < rows(); ++row) {
    if (batch_.position(row) < kTopk) q_.set(row, 40, std::nan(""));
  }
  run_op();
  expect_no_fault();
  EXPECT_EQ(all_values(selected_), clean);
}

TEST_P(FaultySelection, AnInfiniteScoreIsANumber) {
  // The first head of the query meets +inf in one key: one score is +inf or (with a negative weight) -inf.
  const int row = faulty_row();
  pool_.set(batch_.pool_token(kFaulty, 11), 0, HUGE_VAL);
  for (int r = 0; r < rows(); ++r) {
    for (int h = 0; h < kShape.num_heads; ++h) q_.set(r, h * kShape.head_dim, 1);
    for (int h = 0; h < kShape.num_heads; ++h) weights_.set(r, h, 0.5);
  }
  run_op();
  expect_no_fault();
  EXPECT_TRUE(std::ranges::count(values(selected_, row), 11) == 1);
}

class FaultyAttention : public FaultyStep {
 protected:
  static constexpr MlaShape kShape{
      .num_heads = 2, .kv_lora = 40, .nope = 8, .rope = 8, .value = 8, .rope_interleave = true};
  static constexpr int kWidth = 48;
  static constexpr int kTopk = 20;

  FaultyAttention() {
    for (int s = 0; s < batch_.num_sequences(); ++s) {
      for (int position = 0; position < batch_.length(s); ++position) {
        pool_.fill_normal(random_, batch_.pool_token(s, position));
      }
    }
    for (int row = 0; row < rows(); ++row) {
      for (int i = 0; i < kTopk; ++i) selected_.set(row, i, i <= batch_.position(row) ? i : -1);
    }
  }
  void run_op(bool sparse) {
    machine_.upload();
    const TokenBatch rows = batch_.rows(Side::kBackend);
    const Operand q = q_.operand(Side::kBackend);
    const Operand u = u_.operand(Side::kBackend);
    if (sparse) {
      run(machine_.context(2), SparseMla{q, pool_.latents(Side::kBackend), rows,
                                         selected_.matrix<const int32_t>(Side::kBackend), kShape, 0.2F, u});
    } else {
      run(machine_.context(2), DenseMla{q, pool_.latents(Side::kBackend), rows, kShape, 0.2F, u});
    }
    machine_.download();
  }

  Buffer& q_ = machine_.add(dtype(), rows(), 2 * kWidth).fill_normal(random_, 1);
  LatentPool pool_{machine_, batch_, dtype(), kShape.kv_lora, kShape.rope};
  Buffer& selected_ = machine_.add(DType::kI32, rows(), kTopk);
  Buffer& u_ = machine_.add_output(dtype(), rows(), 2 * 40);
};

TEST_P(FaultyAttention, ANanQuerySetsTheFaultBit) {
  for (const bool sparse : {true, false}) {
    run_op(sparse);
    expect_no_fault();
    const auto clean = all_values(u_);
    const double healthy = q_.before(faulty_row(), 3);
    q_.set(faulty_row(), 3, std::nan(""));
    run_op(sparse);
    expect_contained(u_, clean);
    q_.set(faulty_row(), 3, healthy);
  }
}

TEST_P(FaultyAttention, ANanLatentSetsTheFaultBit) {
  for (const int component : {5, 45}) {  // in c, and in kp
    for (const bool sparse : {true, false}) {
      run_op(sparse);
      const auto clean = all_values(u_);
      const int64_t token = batch_.pool_token(kFaulty, 2);
      const double healthy = pool_.after(token, component);
      pool_.set(token, component, std::nan(""));
      run_op(sparse);
      expect_contained(u_, clean);
      pool_.set(token, component, healthy);
    }
  }
}

// A selection that failed leaves a row of -1, and the step goes on for the others.
TEST_P(FaultyAttention, ARowWithoutASelectionHurtsNoOther) {
  run_op(true);
  const auto clean = all_values(u_);
  for (int i = 0; i < kTopk; ++i) selected_.set(faulty_row(), i, -1);
  run_op(true);
  for (int row = 0; row < rows(); ++row) {
    if (row == faulty_row()) continue;
    EXPECT_EQ(values(u_, row), clean[static_cast<size_t>(row)]) << row;
  }
  machine_.expect_no_trespass();
}

class FaultyRouting : public FaultyStep {
 protected:
  static constexpr int kHidden = 40;
  static constexpr int kExperts = 8;
  void run_op() {
    machine_.upload();
    const Weight up = up_.weight(Side::kBackend);
    const std::vector<FfnWeights> experts(kExperts, {up, up, down_.weight(Side::kBackend)});
    const MoeWeights weights{router_.weight(Side::kBackend), bias_.weight(Side::kBackend), experts,
                             experts[0]};
    const TokenBatch rows = batch_.rows(Side::kBackend);
    run(machine_.context(2),
        Moe{x_.operand(Side::kBackend), weights, kShape, rows, delta_.matrix<float>(Side::kBackend),
            chosen_.matrix<int32_t>(Side::kBackend), factors_.matrix<float>(Side::kBackend)});
    machine_.download();
  }

  static constexpr MoeShape kShape{
      .experts_per_token = 3, .num_groups = 4, .groups_kept = 2, .normalize = true, .scaling = 2.5F};
  Buffer& x_ = machine_.add(dtype(), rows(), kHidden).fill_normal(random_, 1);
  WeightBuffer& router_ = machine_.add_weight(random_, WeightForm::kBf16, kExperts, kHidden);
  Buffer& bias_ = machine_.add(DType::kF32, 1, kExperts).fill_normal(random_, 0.3);
  WeightBuffer& up_ = machine_.add_weight(random_, WeightForm::kBf16, 12, kHidden);
  WeightBuffer& down_ = machine_.add_weight(random_, WeightForm::kBf16, kHidden, 12);
  Buffer& delta_ = machine_.add_output(DType::kF32, rows(), kHidden);
  Buffer& chosen_ = machine_.add_output(DType::kI32, rows(), 3);
  Buffer& factors_ = machine_.add_output(DType::kF32, rows(), 3);
};

TEST_P(FaultyRouting, ANanLogitSetsTheFaultBit) {
  if (machine_.backend().moe == nullptr) GTEST_SKIP() << "this back end has no moe";
  run_op();
  expect_no_fault();
  const auto clean = all_values(delta_);
  x_.set(faulty_row(), 3, std::nan(""));
  run_op();
  expect_contained(delta_, clean);
}

const auto kBackEnds =
    testing::Combine(testing::ValuesIn(tested_backends()), testing::ValuesIn(kOperandDTypes));
const auto kName = [](const testing::TestParamInfo<FaultyStep::ParamType>& info) {
  return short_name(std::get<0>(info.param)) + "_" + short_name(std::get<1>(info.param));
};
INSTANTIATE_TEST_SUITE_P(BackEnds, FaultySelection, kBackEnds, kName);
INSTANTIATE_TEST_SUITE_P(BackEnds, FaultyAttention, kBackEnds, kName);
INSTANTIATE_TEST_SUITE_P(BackEnds, FaultyRouting, kBackEnds, kName);

}  // namespace
}  // namespace fulgur::test
