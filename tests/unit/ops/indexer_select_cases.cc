#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

#include "ops/indexer_select.h"
#include "reference/indexer_scores.h"
#include "reference/indexer_select.h"
#include "unit/ops/mla_weights.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

/// Scores and selection of the same inputs.
class IndexerSelectCase : public OpCase<IndexerSelectCase> {
 public:
  IndexerSelectCase(Machine& machine, Random& random, const Dims& dims, DType operand, int first_position)
      : first_(first_position),
        shape_(indexer_shape(dims)),
        batch_(machine, random, beginning_at(first_position, dims.batch), 1, first_position),
        q_(machine.add(operand, batch_.num_tokens(), int64_t{dims.index_heads} * dims.index_dim,
                       {.padding = operand == DType::kF8E4M3 ? 16 : 4})),
        head_weights_(machine.add(DType::kF32, batch_.num_tokens(), dims.index_heads, {.padding = 1})
                          .fill_normal(random, 0.3)
                          .comes_late()),
        pool_(machine, batch_, operand, dims.index_dim),
        scores_(machine.add_output(DType::kF32, batch_.num_tokens(), batch_.max_context() + 3)),
        // FP8: as kernels made for some shapes want it.
        selected_(operand == DType::kF8E4M3
                      ? machine.add(DType::kI32, batch_.num_tokens(), dims.topk).is_output()
                      : machine.add_output(DType::kI32, batch_.num_tokens(), dims.topk)),
        slots_(operand == DType::kF8E4M3
                   ? machine.add(DType::kI32, batch_.num_tokens(), dims.topk).is_output()
                   : machine.add_output(DType::kI32, batch_.num_tokens(), dims.topk)) {
    const bool fp8 = operand == DType::kF8E4M3;
    q_.comes_late().fill([&](int64_t, int64_t) {
      const double value = random.normal();
      return fp8 ? to_e4m3(static_cast<float>(8 * value)) : value;
    });
    for (int s = 0; s < batch_.num_sequences(); ++s) {
      for (int position = first_; position < batch_.length(s); ++position) {
        const int64_t token = batch_.pool_token(s, position);
        for (int i = 0; i < dims.index_dim; ++i) pool_.set(token, i, (fp8 ? 8 : 1) * random.normal());
        if (fp8) pool_.set_scale(token, static_cast<float>(std::exp2(random.normal())));
      }
    }
    // Keys of this step's tokens; all before them are there.
    for (int t = 0; t < batch_.num_tokens(); ++t) {
      pool_.page_comes_late(batch_.pool_token(batch_.sequence(t), batch_.position(t)));
    }
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  [[nodiscard]] int64_t least_index_scratch(const Backend& backend) const override {
    return backend.least_index_scratch(shape_, selected_.cols(), batch_.max_context(), 1);
  }
  void run(Context& context, int first, int count) override {
    OpCase::run(context, first, count);
    const TokenBatch batch = batch_.rows(Side::kBackend, first, count);
    fulgur::run(context, IndexerScores{q_.operand(Side::kBackend, first, count),
                                       head_weights_.matrix<const float>(Side::kBackend, first, count),
                                       pool_.keys(Side::kBackend), shape_, batch,
                                       scores_.matrix<float>(Side::kBackend, first, count)});
  }

  void check() override {
    reference::Table twin;
    with_op(Side::kHost, 0, num_rows(),
            [&](const IndexerSelect& op) { twin = reference::indexer_scores(op); });
    reference::Table wide(twin.rows, scores_.cols());  // zeros behind max_context
    for (int64_t t = 0; t < twin.rows; ++t) std::ranges::copy(twin.row(t), wide.row(t).begin());
    expect_close(wide, scores_, "scores");
    for (int t = 0; t < num_rows(); ++t)
      check_selection(t, twin.row(t)
                             .first(static_cast<size_t>(batch_.position(t)) + 1)
                             .subspan(static_cast<size_t>(first_)));
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    f(IndexerSelect{q_.operand(side, first, count), head_weights_.matrix<const float>(side, first, count),
                    pool_.keys(side), shape_, batch, selected_.matrix<int32_t>(side, first, count),
                    slots_.matrix<int32_t>(side, first, count)});
  }

 private:
  /// `twin`: the oracle's scores of the candidates.
  void check_selection(int t, reference::Row twin) const {
    std::vector<float> own;
    for (int64_t s = first_; s <= batch_.position(t); ++s)
      own.push_back(static_cast<float>(scores_.after(t, s)));
    std::vector<int32_t> exact = reference::select_top<float>(own, selected_.cols());

    // The oracle would have chosen the same, but for scores that it can't tell apart.
    double lowest_taken = HUGE_VAL;
    double highest_left = -HUGE_VAL;
    for (size_t s = 0; s < twin.size(); ++s) {
      if (std::ranges::binary_search(exact, static_cast<int32_t>(s))) {
        lowest_taken = std::min(lowest_taken, twin[s].upper());
      } else {
        highest_left = std::max(highest_left, twin[s].lower());
      }
    }
    EXPECT_GE(lowest_taken, highest_left) << "row " << t;

    for (int32_t& position : exact) position += first_;
    exact.resize(static_cast<size_t>(selected_.cols()), -1);
    std::vector<int32_t> selected;
    for (int64_t i = 0; i < selected_.cols(); ++i)
      selected.push_back(static_cast<int32_t>(selected_.after(t, i)));
    EXPECT_EQ(selected, exact) << "row " << t << " at position " << batch_.position(t);
    for (int64_t i = 0; i < selected_.cols(); ++i) {
      const int32_t position = exact[static_cast<size_t>(i)];
      const int64_t slot = position < 0 ? -1 : batch_.pool_token(batch_.sequence(t), position);
      EXPECT_EQ(slots_.after(t, i), static_cast<double>(slot)) << "row " << t << ", place " << i;
    }
  }

  int first_;
  IndexerShape shape_;
  Batch batch_;
  Buffer& q_;
  Buffer& head_weights_;
  KeyPool pool_;
  Buffer& scores_;
  Buffer& selected_;
  Buffer& slots_;
};

/// The shape of V3.2's and GLM-5's selections but for topk: they have kernels of their own.
Dims published(const char* name, int heads, int topk, std::vector<Part> batch) {
  return {.name = name,
          .rope = 64,
          .index_heads = heads,
          .index_dim = 128,
          .topk = topk,
          .batch = std::move(batch)};
}

const std::vector<Dims>& published_selections() {
  static const std::vector<Dims> kDims = {
      published("published_v32", 64, 160, {{63, 2}, {500, 1}, {0, 1}, {320, 3}, {127, 4}}),
      published("published_glm", 32, 192, {{700, 1}, {0, 3}, {191, 2}}),
      published("published_prompt", 32, 48, {{100, 33}, {0, 30}}),
      published("published_single", 64, 96, {{300, 1}, {40, 1}, {127, 1}}),
      // A second row of a sequence must not read early what its first
      // one's op before writes: in one kernel, and in two.
      published("published_twice", 64, 96, {{127, 2}, {300, 1}, {40, 1}}),
      published("published_twice_loose", 64, 96, {{127, 2}, {17000, 0}})};
  return kDims;
}

TableRow fp8_selection(const Dims& dims, int first, bool tuned) {
  return {.name = "indexer_select_" + std::string(dims.name) + "_fp8" + (first > 0 ? "_from_1" : ""),
          .make = [&dims, first](
                      Machine& m, Random& r,
                      int) { return std::make_unique<IndexerSelectCase>(m, r, dims, DType::kF8E4M3, first); },
          .fp8_keys = true,
          .later_start = first > 0,
          .tuned = tuned};
}

}  // namespace

TableRow long_selection_row() {
  static const Dims kDims = published("published_long", 32, 160, {{16400, 1}});
  return fp8_selection(kDims, 0, true);
}

std::vector<TableRow> selection_rows_that_leave_early() {
  static const Dims kFused = published("published_short", 32, 160, {{100, 1}, {159, 1}});
  static const Dims kPrompt = published("published_short_prompt", 32, 160, {{0, 150}});
  // Of a sequence that takes no part: the launch's bound is far above its rows.
  static const Dims kLoose = published("published_loose", 32, 160, {{100, 1}, {159, 1}, {40000, 0}});
  return {fp8_selection(kFused, 0, true), fp8_selection(kPrompt, 0, true), fp8_selection(kLoose, 0, true)};
}

std::vector<TableRow> indexer_select_rows() {
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    if (dims.index_heads == 0) continue;
    for (const DType operand : kOperandDTypes) {
      for (const int first : {0, 1}) {
        rows.push_back({.name = "indexer_select_" + std::string(dims.name) + "_" + short_name(operand) +
                                (first > 0 ? "_from_1" : ""),
                        .num_cases = 2,
                        .make =
                            [&dims, operand, first](Machine& m, Random& r, int) {
                              return std::make_unique<IndexerSelectCase>(m, r, dims, operand, first);
                            },
                        .later_start = first > 0});
      }
    }
    rows.push_back(fp8_selection(dims, 0, false));
  }
  for (const Dims& dims : published_selections()) {
    for (const int first : {0, 1}) rows.push_back(fp8_selection(dims, first, true));
  }
  return rows;
}

}  // namespace fulgur::test
