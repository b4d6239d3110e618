#include "ops/linear.h"
#include "reference/linear.h"
#include "reference/lm_head.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

struct LinearShape {
  int tokens;
  int rows;
  int cols;
};

class LinearCase : public OpCase<LinearCase> {
 public:
  LinearCase(Machine& machine, Random& random, LinearShape shape, DType operand, WeightForm form, DType out)
      : x_(machine.add(operand, shape.tokens, shape.cols, {.padding = 4}).fill_normal(random, 1)),
        w_(machine.add_weight(random, form, shape.rows, shape.cols)),
        y_(machine.add_output(out, shape.tokens, shape.rows)) {}

  [[nodiscard]] int num_rows() const override { return static_cast<int>(x_.rows()); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const Linear& op) { expect_close(reference::linear(op), y_, "y"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    f(Linear{x_.operand(side, first, count), w_.weight(side), y_.operand(side, first, count)});
  }

 private:
  Buffer& x_;
  WeightBuffer& w_;
  Buffer& y_;
};

class LmHeadCase : public OpCase<LmHeadCase> {
 public:
  LmHeadCase(Machine& machine, Random& random, LinearShape shape, int wanted, DType operand, WeightForm form)
      : hidden_(machine.add(operand, shape.tokens, shape.cols, {.padding = 4}).fill_normal(random, 1)),
        rows_(machine.add(DType::kI32, wanted, 1).fill([&](int64_t, int64_t) {
          return static_cast<double>(random.integer(0, shape.tokens - 1));
        })),
        w_(machine.add_weight(random, form, shape.rows, shape.cols)),
        logits_(machine.add_output(DType::kF32, wanted, shape.rows)) {}

  [[nodiscard]] int num_rows() const override { return static_cast<int>(rows_.rows()); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const LmHead& op) { expect_close(reference::lm_head(op), logits_, "logits"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    f(LmHead{hidden_.operand(side), static_cast<const int32_t*>(rows_.data(side, first)), w_.weight(side),
             logits_.matrix<float>(side, first, count)});
  }

 private:
  Buffer& hidden_;
  Buffer& rows_;
  WeightBuffer& w_;
  Buffer& logits_;
};

}  // namespace

std::vector<TableRow> linear_rows() {
  constexpr int kTails = 17;
  static const std::vector<LinearShape> kShapes = {{1, 300, 1536}, {5, 64, 7168}, {70, 176, 60},
                                                   {130, 65, 96},  {9, 257, 144}, {7, 40, 712}};
  // Tails 1 .. 17 of each of the three dimensions, then the shapes; NVFP4's columns by the group.
  const auto shape_of = [](int index, WeightForm form) {
    const int group = form == WeightForm::kNvfp4 ? static_cast<int>(kNvfp4Group) : 1;
    if (index < kTails) return LinearShape{index + 1, 35, 40 / group * group};
    if (index < 2 * kTails) return LinearShape{5, index - kTails + 1, 33 / group * group};
    if (index < 3 * kTails) return LinearShape{6, 19, (index - 2 * kTails + 1) * group};
    LinearShape shape = kShapes[static_cast<size_t>(index - 3 * kTails)];
    shape.cols = shape.cols / group * group;
    return shape;
  };
  const int num_cases = 3 * kTails + static_cast<int>(kShapes.size());
  std::vector<TableRow> rows;
  for (const DType operand : kOperandDTypes) {
    for (const WeightForm form : kWeightForms) {
      for (const DType out : kOperandDTypes) {
        rows.push_back(
            {"linear_" + short_name(operand) + "_by_" + short_name(form) + "_to_" + short_name(out),
             num_cases, [=](Machine& m, Random& r, int index) {
               return std::make_unique<LinearCase>(m, r, shape_of(index, form), operand, form, out);
             }});
      }
      rows.push_back({"lm_head_" + short_name(operand) + "_by_" + short_name(form), 3,
                      [=](Machine& m, Random& r, int index) {
                        const LinearShape shapes[] = {{7, 192, 176}, {1, 1280, 256}, {40, 41, 37}};
                        const int wanted[] = {3, 1, 22};
                        return std::make_unique<LmHeadCase>(m, r, shapes[index], wanted[index], operand,
                                                            form);
                      }});
    }
  }
  return rows;
}

}  // namespace fulgur::test
