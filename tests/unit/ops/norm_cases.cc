#include "ops/norm.h"
#include "reference/add_rms_norm.h"
#include "reference/rms_norm.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

struct NormShape {
  int rows;
  int width;
};

class RmsNormCase : public OpCase<RmsNormCase> {
 public:
  RmsNormCase(Machine& machine, Random& random, NormShape shape, WeightForm form, DType out)
      : x_(machine.add(DType::kF32, shape.rows, shape.width, {.padding = 5}).fill_normal(random, 3)),
        gain_(machine.add_gain(random, form, shape.width)),
        out_(machine.add_output(out, shape.rows, shape.width)) {}

  [[nodiscard]] int num_rows() const override { return static_cast<int>(x_.rows()); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const RmsNorm& op) { expect_close(reference::rms_norm(op), out_, "out"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    f(RmsNorm{x_.matrix<float>(side, first, count), gain_.weight(side), 1e-5F,
              out_.operand(side, first, count)});
  }

 private:
  Buffer& x_;
  Buffer& gain_;
  Buffer& out_;
};

class AddRmsNormCase : public OpCase<AddRmsNormCase> {
 public:
  AddRmsNormCase(Machine& machine, Random& random, NormShape shape, WeightForm form, DType out)
      : sum_(machine.add(DType::kF32, shape.rows, shape.width, {.padding = 5})
                 .fill_normal(random, 3)
                 .is_output()),
        delta_(machine.add(DType::kF32, shape.rows, shape.width, {.padding = 2}).fill_normal(random, 1)),
        gain_(machine.add_gain(random, form, shape.width)),
        out_(machine.add_output(out, shape.rows, shape.width)) {}

  [[nodiscard]] int num_rows() const override { return static_cast<int>(sum_.rows()); }
  void check() override {
    reference::AddedAndNormed twin;
    with_op(Side::kHost, 0, num_rows(), [&](const AddRmsNorm& op) { twin = reference::add_rms_norm(op); });
    expect_close(twin.sum, sum_, "sum");
    expect_close(twin.out, out_, "out");
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    f(AddRmsNorm{sum_.matrix<float>(side, first, count), delta_.matrix<float>(side, first, count),
                 gain_.weight(side), 1e-6F, out_.operand(side, first, count)});
  }

 private:
  Buffer& sum_;
  Buffer& delta_;
  Buffer& gain_;
  Buffer& out_;
};

}  // namespace

std::vector<TableRow> norm_rows() {
  static const std::vector<NormShape> kShapes = {{1, 7168}, {5, 176}, {33, 256}, {70, 28}, {9, 512}};
  constexpr int kTails = 17;
  const auto shape_of = [](int index) {  // every width 1 .. 17, then the shapes
    return index < kTails ? NormShape{3, index + 1} : kShapes[static_cast<size_t>(index - kTails)];
  };
  const int num_cases = kTails + static_cast<int>(kShapes.size());
  std::vector<TableRow> rows;
  for (const WeightForm form : kPlainForms) {
    for (const DType out : kOperandDTypes) {
      const std::string dtypes = short_name(form) + "_to_" + short_name(out);
      rows.push_back({"rms_norm_" + dtypes, num_cases, [=](Machine& m, Random& r, int index) {
                        return std::make_unique<RmsNormCase>(m, r, shape_of(index), form, out);
                      }});
      rows.push_back({"add_rms_norm_" + dtypes, num_cases, [=](Machine& m, Random& r, int index) {
                        return std::make_unique<AddRmsNormCase>(m, r, shape_of(index), form, out);
                      }});
    }
  }
  return rows;
}

}  // namespace fulgur::test
