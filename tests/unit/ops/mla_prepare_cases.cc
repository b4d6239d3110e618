#include "ops/mla_prepare.h"
#include "reference/mla_output.h"
#include "reference/mla_prepare.h"
#include "unit/ops/mla_weights.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

/// The pool tokens that a step writes, in the order of its rows.
std::vector<int64_t> written_tokens(const Batch& batch) {
  std::vector<int64_t> tokens;
  for (int row = 0; row < batch.num_tokens(); ++row) {
    tokens.push_back(batch.pool_token(batch.sequence(row), batch.position(row)));
  }
  return tokens;
}

class MlaPrepareCase : public OpCase<MlaPrepareCase> {
 public:
  MlaPrepareCase(Machine& machine, Random& random, const Dims& dims, DType operand, WeightForm form)
      : shape_(mla_shape(dims)),
        batch_(machine, random, dims.batch),
        weights_(machine, random, dims, form),
        rope_(machine, dims, batch_.max_context()),
        x_(machine.add(operand, batch_.num_tokens(), dims.hidden, {.padding = 4})
               .fill_normal(random, 1)
               .comes_late()),
        q_latent_(machine.add_output(operand, dims.q_lora > 0 ? batch_.num_tokens() : 0, dims.q_lora)),
        q_(machine.add_output(operand, batch_.num_tokens(),
                              int64_t{dims.heads} * (dims.kv_lora + dims.rope))),
        pool_(machine, batch_, operand, dims.kv_lora + dims.rope),
        entries_(written_tokens(batch_)) {
    pool_.buffer().may_change(
        [this](int64_t token, int64_t) { return std::ranges::find(entries_, token) != entries_.end(); });
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    reference::MlaPrepared twin;
    with_op(Side::kHost, 0, num_rows(), [&](const MlaPrepare& op) { twin = reference::mla_prepare(op); });
    if (q_latent_.rows() > 0) expect_close(twin.q_latent, q_latent_, "q_latent");
    expect_close(twin.q, q_, "q");
    expect_close(
        twin.entries,
        [this](int64_t row, int64_t i) {
          return pool_.buffer().after(entries_[static_cast<size_t>(row)], i);
        },
        "latents");
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    const MlaWeights weights = weights_.weights(side);
    const RopeTable rope = rope_.table(side);
    const bool has_latent = q_latent_.rows() > 0;
    f(MlaPrepare{x_.operand(side, first, count), weights, shape_, rope, batch,
                 has_latent ? q_latent_.operand(side, first, count) : q_latent_.operand(side),
                 q_.operand(side, first, count), pool_.latents(side)});
  }

 private:
  MlaShape shape_;
  Batch batch_;
  MlaWeightBuffers weights_;
  RopeBuffers rope_;
  Buffer& x_;
  Buffer& q_latent_;
  Buffer& q_;
  LatentPool pool_;
  std::vector<int64_t> entries_;
};

class MlaOutputCase : public OpCase<MlaOutputCase> {
 public:
  MlaOutputCase(Machine& machine, Random& random, const Dims& dims, int tokens, DType operand,
                WeightForm form)
      : shape_(mla_shape(dims)),
        weights_(machine, random, dims, form),
        u_(machine.add(operand, tokens, int64_t{dims.heads} * dims.kv_lora, {.padding = 4})
               .fill_normal(random, 1)
               .comes_late()),
        delta_(machine.add_output(DType::kF32, tokens, dims.hidden)) {}

  [[nodiscard]] int num_rows() const override { return static_cast<int>(u_.rows()); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const MlaOutput& op) { expect_close(reference::mla_output(op), delta_, "delta"); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const MlaWeights weights = weights_.weights(side);
    return f(
        MlaOutput{u_.operand(side, first, count), weights, shape_, delta_.matrix<float>(side, first, count)});
  }

 private:
  MlaShape shape_;
  MlaWeightBuffers weights_;
  Buffer& u_;
  Buffer& delta_;
};

}  // namespace

std::vector<TableRow> mla_prepare_rows() {
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    for (const DType operand : kOperandDTypes) {
      for (const WeightForm form : kWeightForms) {
        rows.push_back(
            {"mla_prepare_" + std::string(dims.name) + "_" + short_name(operand) + "_by_" + short_name(form),
             1, [&dims, operand, form](Machine& m, Random& r, int) {
               return std::make_unique<MlaPrepareCase>(m, r, dims, operand, form);
             }});
      }
    }
  }
  return rows;
}

std::vector<TableRow> mla_output_rows() {
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    for (const DType operand : kOperandDTypes) {
      for (const WeightForm form : kWeightForms) {
        rows.push_back(
            {"mla_output_" + std::string(dims.name) + "_" + short_name(operand) + "_by_" + short_name(form),
             2, [&dims, operand, form](Machine& m, Random& r, int index) {
               return std::make_unique<MlaOutputCase>(m, r, dims, index == 0 ? 1 : 21, operand, form);
             }});
      }
    }
  }
  return rows;
}

}  // namespace fulgur::test
