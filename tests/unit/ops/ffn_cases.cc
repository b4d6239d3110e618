#include <gtest/gtest.h>

#include "ops/ffn.h"
#include "ops/moe.h"
#include "reference/ffn.h"
#include "reference/moe.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

class FfnBuffers {
 public:
  FfnBuffers(Machine& machine, Random& random, WeightForm form, int hidden, int width)
      : FfnBuffers(machine, random, form, form, hidden, width) {}
  FfnBuffers(Machine& machine, Random& random, WeightForm form, WeightForm up_form, int hidden, int width)
      : gate_(machine.add_weight(random, form, width, hidden)),
        up_(machine.add_weight(random, up_form, width, hidden)),
        down_(machine.add_weight(random, form, hidden, width)) {}
  [[nodiscard]] FfnWeights weights(Side side) const {
    return {gate_.weight(side), up_.weight(side), down_.weight(side)};
  }

 private:
  WeightBuffer& gate_;
  WeightBuffer& up_;
  WeightBuffer& down_;
};

class FfnCase : public OpCase<FfnCase> {
 public:
  FfnCase(Machine& machine, Random& random, int tokens, int hidden, int width, DType operand, WeightForm form)
      : weights_(machine, random, form, hidden, width),
        x_(machine.add(operand, tokens, hidden, {.padding = 4}).fill_normal(random, 2)),
        delta_(machine.add_output(DType::kF32, tokens, hidden)) {}

  [[nodiscard]] int num_rows() const override { return static_cast<int>(x_.rows()); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const Ffn& op) { expect_close(reference::ffn(op), delta_, "delta"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const FfnWeights weights = weights_.weights(side);
    f(Ffn{x_.operand(side, first, count), weights, delta_.matrix<float>(side, first, count)});
  }

 private:
  FfnBuffers weights_;
  Buffer& x_;
  Buffer& delta_;
};

class MoeCase : public OpCase<MoeCase> {
 public:
  struct Variant {
    bool shared = true;
    bool normalize = true;
    bool observed = true;  // chosen_experts and expert_weights are wanted
    bool mixed = false;    // up is bf16 whatever gate and down are
  };

  MoeCase(Machine& machine, Random& random, const Dims& dims, DType operand, WeightForm form, Variant variant)
      : shape_{.experts_per_token = dims.experts_per_token,
               .num_groups = dims.groups,
               .groups_kept = dims.groups_kept,
               .normalize = variant.normalize,
               .scaling = 2.5F},
        variant_(variant),
        batch_(machine, random, dims.batch),
        router_(machine.add_weight(random, form, dims.experts, dims.hidden)),
        bias_(machine.add(DType::kF32, 1, dims.experts).fill_normal(random, 0.3)),
        shared_(machine, random, form, dims.hidden, dims.shared_width),
        x_(machine.add(operand, batch_.num_tokens(), dims.hidden, {.padding = 4}).fill_normal(random, 1)),
        delta_(machine.add_output(DType::kF32, batch_.num_tokens(), dims.hidden)),
        chosen_(machine.add(DType::kI32, batch_.num_tokens(), dims.experts_per_token, {.padding = 1})),
        factors_(machine.add(DType::kF32, batch_.num_tokens(), dims.experts_per_token, {.padding = 1})) {
    for (int e = 0; e < dims.experts; ++e)
      experts_.emplace_back(machine, random, form, variant.mixed ? WeightForm::kBf16 : form, dims.hidden,
                            dims.expert_width);
    if (variant.observed) {
      chosen_.is_output();
      factors_.is_output();
    }
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    reference::MoeResult twin;
    with_op(Side::kHost, 0, num_rows(), [&](const Moe& op) { twin = reference::moe(op); });
    reference::Table factors(num_rows(), factors_.cols());
    for (int t = 0; t < num_rows(); ++t) {
      const reference::Routing& routing = twin.routing[static_cast<size_t>(t)];
      ASSERT_GT(routing.gap.certain, 0)
          << "row " << t << ": a choice too close for this test; take another seed";
      std::ranges::copy(routing.weights, factors.row(t).begin());
      if (!variant_.observed) continue;
      std::vector<int32_t> chosen;
      for (int64_t i = 0; i < chosen_.cols(); ++i)
        chosen.push_back(static_cast<int32_t>(chosen_.after(t, i)));
      EXPECT_EQ(chosen, routing.experts) << "row " << t;
    }
    if (variant_.observed) expect_close(factors, factors_, "expert_weights");
    expect_close(twin.delta, delta_, "delta");
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    std::vector<FfnWeights> experts;
    for (const FfnBuffers& expert : experts_) experts.push_back(expert.weights(side));
    MoeWeights weights{router_.weight(side), bias_.weight(side), experts, {}};
    if (variant_.shared) weights.shared = shared_.weights(side);
    Moe op{x_.operand(side, first, count),           weights, shape_, batch,
           delta_.matrix<float>(side, first, count), {},      {}};
    if (variant_.observed) {
      op.chosen_experts = chosen_.matrix<int32_t>(side, first, count);
      op.expert_weights = factors_.matrix<float>(side, first, count);
    }
    f(op);
  }

 private:
  MoeShape shape_;
  Variant variant_;
  Batch batch_;
  WeightBuffer& router_;
  Buffer& bias_;
  FfnBuffers shared_;
  Buffer& x_;
  Buffer& delta_;
  Buffer& chosen_;
  Buffer& factors_;
  std::vector<FfnBuffers> experts_;
};

}  // namespace

std::vector<TableRow> ffn_rows() {
  constexpr int kTails = 17;
  std::vector<TableRow> rows;
  for (const DType operand : kOperandDTypes) {
    for (const WeightForm form : kWeightForms) {
      const std::string dtypes = short_name(operand) + "_by_" + short_name(form);
      for (const Dims& dims : all_dims()) {
        rows.push_back({"ffn_" + std::string(dims.name) + "_" + dtypes, 2,
                        [&dims, operand, form](Machine& m, Random& r, int index) {
                          return std::make_unique<FfnCase>(m, r, index == 0 ? 1 : 19, dims.hidden,
                                                           dims.dense_width, operand, form);
                        }});
      }
      rows.push_back({"ffn_tails_" + dtypes, kTails, [operand, form](Machine& m, Random& r, int index) {
                        return std::make_unique<FfnCase>(m, r, 18 - index - 1, 16 + index, index + 1, operand,
                                                         form);
                      }});
    }
  }
  return rows;
}

std::vector<TableRow> moe_rows() {
  struct Named {
    MoeCase::Variant variant;
    const char* suffix;
  };
  static const Named kVariants[] = {{{}, ""},
                                    {{.shared = false}, "_without_shared"},
                                    {{.normalize = false}, "_not_normalized"},
                                    {{.observed = false}, "_unobserved"},
                                    {{.mixed = true}, "_mixed"}};
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    for (const DType operand : kOperandDTypes) {
      for (const WeightForm form : kWeightForms) {
        for (const Named& named : kVariants) {
          const bool plain = named.suffix[0] == '\0';
          if (named.variant.mixed != !is_plain(form) && !plain) continue;
          if (!plain && ((is_plain(form) && form != WeightForm::kBf16) || dims.hidden > 200)) continue;
          rows.push_back({"moe_" + std::string(dims.name) + "_" + short_name(operand) + "_by_" +
                              short_name(form) + named.suffix,
                          1, [&dims, operand, form, &named](Machine& m, Random& r, int) {
                            return std::make_unique<MoeCase>(m, r, dims, operand, form, named.variant);
                          }});
        }
      }
    }
  }
  return rows;
}

}  // namespace fulgur::test
