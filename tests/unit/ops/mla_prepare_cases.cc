#include <gtest/gtest.h>

#include <algorithm>

#include "ops/mla_prepare.h"
#include "reference/fp8_group.h"
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
  MlaPrepareCase(Machine& machine, Random& random, const Dims& dims, DType operand, WeightForm form,
                 DType latents)
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
        pool_(machine, batch_, latents, dims.kv_lora, dims.rope),
        entries_(written_tokens(batch_)) {
    pool_.may_change(entries_);
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    reference::MlaPrepared twin;
    with_op(Side::kHost, 0, num_rows(), [&](const MlaPrepare& op) { twin = reference::mla_prepare(op); });
    if (q_latent_.rows() > 0) expect_close(twin.q_latent, q_latent_, "q_latent");
    expect_close(twin.q, q_, "q");
    if (pool_.latents(Side::kHost).dtype == DType::kF8E4M3) twin.entries = with_codes_checked(twin.entries);
    expect_close(
        twin.entries,
        [this](int64_t row, int64_t i) {
          return pool_.after(entries_[static_cast<size_t>(row)], static_cast<int>(i));
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
  /// Scales and codes of FP8 entries may be what they are; returns the entries with the codes in place of the
  /// latents.
  [[nodiscard]] reference::Table with_codes_checked(reference::Table entries) const {
    constexpr int kGroup = 128;
    for (int64_t row = 0; row < entries.rows; ++row) {
      const int64_t token = entries_[static_cast<size_t>(row)];
      for (int begin = 0; begin < shape_.kv_lora; begin += kGroup) {
        const int size = std::min(kGroup, shape_.kv_lora - begin);
        const auto group = entries.row(row).subspan(static_cast<size_t>(begin), static_cast<size_t>(size));
        const reference::Real allowed = reference::group_scales(group, false, 0).front();
        const double scale = pool_.scale_after(token, begin / kGroup);
        EXPECT_TRUE(allowed.lower() <= scale && scale <= allowed.upper())
            << "the scale " << scale << " of entry " << row << " from " << begin << ", should be "
            << allowed.value;
        for (int i = 0; i < size; ++i) {
          const double code = pool_.after(token, begin + i);
          reference::Real& value = group[static_cast<size_t>(i)];
          EXPECT_TRUE(reference::may_be_code(value, scale, code))
              << "entry " << row << " component " << begin + i << ": " << code << " for "
              << value.value / scale;
          value = code;
        }
      }
    }
    return entries;
  }

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
               return std::make_unique<MlaPrepareCase>(m, r, dims, operand, form, operand);
             }});
      }
      for (const DType latents : kCacheDTypes) {
        if (latents == operand) continue;
        rows.push_back({.name = "mla_prepare_" + std::string(dims.name) + "_" + short_name(operand) +
                                "_into_" + short_name(latents),
                        .make =
                            [&dims, operand, latents](Machine& m, Random& r, int) {
                              return std::make_unique<MlaPrepareCase>(m, r, dims, operand, WeightForm::kBf16,
                                                                      latents);
                            },
                        .mixed_caches = true});
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
