// attention_prepare, whether a back end merges the two ops in it or not.

#include <algorithm>
#include <optional>
#include <string_view>

#include "ops/attention_prepare.h"
#include "reference/attention_prepare.h"
#include "unit/ops/indexer_outputs.h"
#include "unit/ops/mla_weights.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

struct Variant {
  DType operand;
  WeightForm form;
  std::optional<DType> keys;  // of the layer's own indexer
};

class AttentionPrepareCase : public OpCase<AttentionPrepareCase> {
 public:
  AttentionPrepareCase(Machine& machine, Random& random, const Dims& dims, const Variant& variant)
      : mla_shape_(mla_shape(dims)),
        batch_(machine, random, dims.batch),
        mla_weights_(machine, random, dims, variant.form),
        rope_(machine, dims, batch_.max_context()),
        x_(machine.add(variant.operand, batch_.num_tokens(), dims.hidden, {.padding = 4})
               .fill_normal(random, 1)
               .comes_late()),
        q_latent_(
            machine.add_output(variant.operand, dims.q_lora > 0 ? batch_.num_tokens() : 0, dims.q_lora)),
        q_(machine.add_output(variant.operand, batch_.num_tokens(),
                              int64_t{dims.heads} * (dims.kv_lora + dims.rope))),
        latents_(machine.add(variant.operand, int64_t{batch_.num_pages()} * kPageTokens,
                             dims.kv_lora + dims.rope)) {
    for (int row = 0; row < batch_.num_tokens(); ++row) {
      entries_.push_back(batch_.pool_token(batch_.sequence(row), batch_.position(row)));
    }
    latents_.may_change(
        [this](int64_t token, int64_t) { return std::ranges::find(entries_, token) != entries_.end(); });
    if (!variant.keys) return;
    indexer_shape_ = indexer_shape(dims);
    indexer_shape_.hadamard = variant.keys == DType::kF8E4M3;
    indexer_weights_.emplace(machine, random, dims, MatrixKind{variant.form}, MatrixKind{variant.form});
    indexer_outputs_.emplace(machine, batch_, indexer_shape_, *variant.keys);
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    reference::AttentionPrepared twin;
    with_op(Side::kHost, 0, num_rows(),
            [&](const AttentionPrepare& op) { twin = reference::attention_prepare(op); });
    if (q_latent_.rows() > 0) expect_close(twin.mla.q_latent, q_latent_, "q_latent");
    expect_close(twin.mla.q, q_, "q");
    expect_close(
        twin.mla.entries,
        [this](int64_t row, int64_t i) { return latents_.after(entries_[static_cast<size_t>(row)], i); },
        "latents");
    if (indexer_outputs_) indexer_outputs_->expect(twin.indexer.value());
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    const MlaWeights mla_weights = mla_weights_.weights(side);
    const RopeTable rope = rope_.table(side);
    const Operand x = x_.operand(side, first, count);
    const Operand q_latent =
        q_latent_.rows() > 0 ? q_latent_.operand(side, first, count) : q_latent_.operand(side);
    const MlaPrepare mla{x,
                         mla_weights,
                         mla_shape_,
                         rope,
                         batch,
                         q_latent,
                         q_.operand(side, first, count),
                         {.data = latents_.data(side),
                          .dtype = latents_.dtype(),
                          .num_pages = batch_.num_pages(),
                          .width = static_cast<int>(latents_.cols())}};
    if (!indexer_outputs_) return f(AttentionPrepare{mla, nullptr});
    const IndexerWeights indexer_weights = indexer_weights_->weights(side);
    const IndexerPrepare indexer{x,
                                 q_latent,
                                 indexer_weights,
                                 indexer_shape_,
                                 IndexerProjection::kFused,
                                 rope,
                                 batch,
                                 indexer_outputs_->q(side, first, count),
                                 indexer_outputs_->head_weights(side, first, count),
                                 indexer_outputs_->keys(side)};
    f(AttentionPrepare{mla, &indexer});
  }

 private:
  MlaShape mla_shape_;
  Batch batch_;
  MlaWeightBuffers mla_weights_;
  RopeBuffers rope_;
  Buffer& x_;
  Buffer& q_latent_;
  Buffer& q_;
  Buffer& latents_;
  std::vector<int64_t> entries_;  // tokens of the pool, one a row
  IndexerShape indexer_shape_{};
  std::optional<IndexerWeightBuffers> indexer_weights_;
  std::optional<IndexerOutputs> indexer_outputs_;
};

}  // namespace

std::vector<TableRow> attention_prepare_rows() {
  constexpr Variant kVariants[] = {
      {DType::kBf16, WeightForm::kBf16, DType::kBf16},  {DType::kBf16, WeightForm::kFp8, DType::kBf16},
      {DType::kBf16, WeightForm::kFp8, DType::kF8E4M3}, {DType::kF32, WeightForm::kBf16, DType::kF32},
      {DType::kBf16, WeightForm::kBf16, std::nullopt},  {DType::kF32, WeightForm::kF32, std::nullopt}};
  constexpr std::string_view kTooLarge = "slice";  // for a test whose parts are tested at every size
  std::vector<TableRow> rows;
  for (const Dims& dims : all_dims()) {
    if (dims.name == kTooLarge) continue;
    for (const Variant& variant : kVariants) {
      const bool fp8_keys = variant.keys == DType::kF8E4M3;
      if (variant.keys && dims.index_heads == 0) continue;
      if (fp8_keys && (dims.index_dim & (dims.index_dim - 1)) != 0) continue;  // no Hadamard rotation
      rows.push_back({.name = "attention_prepare_" + std::string(dims.name) + "_" +
                              short_name(variant.operand) + "_by_" + short_name(variant.form) +
                              (variant.keys ? "_keys_" + short_name(*variant.keys) : "_no_indexer"),
                      .make =
                          [&dims, variant](Machine& m, Random& r, int) {
                            return std::make_unique<AttentionPrepareCase>(m, r, dims, variant);
                          },
                      .fp8_keys = fp8_keys});
    }
  }
  return rows;
}

}  // namespace fulgur::test
