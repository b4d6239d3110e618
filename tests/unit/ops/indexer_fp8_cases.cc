// indexer_prepare into an FP8 cache: scales and codes, Hadamard or not.

#include <gtest/gtest.h>

#include <algorithm>

#include "ops/indexer_prepare.h"
#include "reference/fp8_group.h"
#include "reference/indexer_prepare.h"
#include "unit/ops/mla_weights.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

class IndexerPrepareFp8Case : public OpCase<IndexerPrepareFp8Case> {
 public:
  IndexerPrepareFp8Case(Machine& machine, Random& random, const Dims& dims, DType operand, WeightForm form,
                        IndexerProjection projection, const IndexerShape& shape, bool as_published = false)
      : shape_(shape),
        projection_(projection),
        batch_(machine, random, dims.batch),
        rope_(machine, dims, batch_.max_context()),
        wk_weights_proj_(machine.add_weight(random, form, dims.index_dim + dims.index_heads, dims.hidden,
                                            /*aligned=*/as_published)),
        k_norm_gain_(machine.add_gain(random, form, dims.index_dim)),
        k_norm_bias_(
            machine.add(stored_dtype(plain_beside(form)), 1, dims.index_dim).fill_normal(random, 0.5)),
        wq_b_(machine.add_weight(random, as_published ? WeightForm::kFp8 : form,
                                 int64_t{dims.index_heads} * dims.index_dim, dims.q_lora,
                                 /*aligned=*/as_published)),
        x_(machine.add(operand, batch_.num_tokens(), dims.hidden, {.padding = as_published ? 8 : 4})
               .fill_normal(random, 1)
               .comes_late()),
        q_latent_(machine.add(operand, batch_.num_tokens(), dims.q_lora, {.padding = as_published ? 8 : 2})
                      .fill_normal(random, 1)
                      .comes_late()),
        q_(machine.add_output(DType::kF8E4M3, batch_.num_tokens(),
                              int64_t{dims.index_heads} * dims.index_dim)),
        head_weights_(machine.add_output(DType::kF32, batch_.num_tokens(), dims.index_heads)),
        pool_(machine, batch_, DType::kF8E4M3, dims.index_dim) {
    for (int row = 0; row < batch_.num_tokens(); ++row)
      written_.push_back(batch_.pool_token(batch_.sequence(row), batch_.position(row)));
    pool_.may_change(written_);
  }

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    reference::IndexerPrepared twin;
    with_op(Side::kHost, 0, num_rows(),
            [&](const IndexerPrepare& op) { twin = reference::indexer_prepare(op); });
    for (int t = 0; t < num_rows(); ++t) {
      const int64_t token = written_[static_cast<size_t>(t)];
      const double scale = pool_.scale_after(token);
      EXPECT_TRUE(std::ranges::any_of(reference::group_scales(twin.keys.row(t), shape_.power_of_two_scales),
                                      [&](const reference::Real& allowed) {
                                        return allowed.lower() <= scale && scale <= allowed.upper();
                                      }))
          << "the scale " << scale << " of key " << t;
      for (int i = 0; i < shape_.head_dim; ++i) {
        EXPECT_TRUE(reference::may_be_code(twin.keys.at(t, i), scale, pool_.after(token, i)))
            << "key " << t << " component " << i << ": " << pool_.after(token, i) << " for "
            << twin.keys.at(t, i).value / scale;
      }
      for (int h = 0; h < shape_.num_heads; ++h) check_head(twin, t, h);
      if (testing::Test::HasFailure()) return;
    }
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    const RopeTable rope = rope_.table(side);
    const IndexerWeights weights{wk_weights_proj_.weight(side), k_norm_gain_.weight(side),
                                 k_norm_bias_.weight(side), wq_b_.weight(side)};
    f(IndexerPrepare{x_.operand(side, first, count), q_latent_.operand(side, first, count), weights, shape_,
                     projection_, rope, batch, q_.operand(side, first, count),
                     head_weights_.matrix<float>(side, first, count), pool_.keys(side)});
  }

 private:
  /// The head's own scale is seen in its weight alone.
  void check_head(const reference::IndexerPrepared& twin, int t, int h) {
    const auto dim = static_cast<size_t>(shape_.head_dim);
    const reference::Row q = twin.q.row(t).subspan(static_cast<size_t>(h) * dim, dim);
    const double weight = head_weights_.after(t, h);
    const bool fits = std::ranges::any_of(
        reference::group_scales(q, shape_.power_of_two_scales), [&](const reference::Real& scale) {
          const reference::Real folded = twin.head_weights.at(t, h) * scale;
          if (!(folded.lower() <= weight && weight <= folded.upper())) return false;
          for (size_t i = 0; i < dim; ++i) {
            const auto column = static_cast<int64_t>(static_cast<size_t>(h) * dim + i);
            const float code = e4m3_to_float(static_cast<uint8_t>(q_.after(t, column)));
            if (!reference::may_be_code(q[i], scale, code)) return false;
          }
          return true;
        });
    EXPECT_TRUE(fits) << "row " << t << " head " << h << ", weight " << weight;
  }

  IndexerShape shape_;
  IndexerProjection projection_;
  Batch batch_;
  RopeBuffers rope_;
  WeightBuffer& wk_weights_proj_;
  Buffer& k_norm_gain_;
  Buffer& k_norm_bias_;
  WeightBuffer& wq_b_;
  Buffer& x_;
  Buffer& q_latent_;
  Buffer& q_;
  Buffer& head_weights_;
  KeyPool pool_;
  std::vector<int64_t> written_;
};

/// The indexers of V3.2 and GLM-5 as they are, which have kernels of their own.
const std::vector<Dims>& published_dims() {
  static const std::vector<Dims> kDims = {{.name = "published_v32",
                                           .hidden = 7168,
                                           .q_lora = 1536,
                                           .rope = 64,
                                           .index_heads = 64,
                                           .index_dim = 128,
                                           .index_interleave = false,
                                           .batch = {{0, 2}, {61, 6}, {130, 2}}},
                                          {.name = "published_glm",
                                           .hidden = 6144,
                                           .q_lora = 2048,
                                           .rope = 64,
                                           .index_heads = 32,
                                           .index_dim = 128,
                                           .index_interleave = true,
                                           .batch = {{0, 2}, {61, 6}, {130, 2}}}};
  return kDims;
}

}  // namespace

std::vector<TableRow> indexer_prepare_fp8_rows() {
  struct Variant {
    bool hadamard;
    bool power_of_two_scales;
    const char* name;
  };
  constexpr Variant kVariants[] = {
      {false, true, "fp8"}, {true, true, "fp8_hadamard"}, {false, false, "fp8_any_scale"}};
  std::vector<TableRow> rows;
  for (const Dims& dims : published_dims()) {
    rows.push_back({.name = "indexer_prepare_" + std::string(dims.name) + "_fp8",
                    .make =
                        [&dims](Machine& m, Random& r, int) {
                          return std::make_unique<IndexerPrepareFp8Case>(
                              m, r, dims, DType::kBf16, WeightForm::kBf16, IndexerProjection::kFused,
                              indexer_shape(dims), /*as_published=*/true);
                        },
                    .fp8_keys = true,
                    .by_library = true});  // without the tuned kernels
  }
  for (const Dims& dims : all_dims()) {
    if (dims.index_heads == 0) continue;
    for (const Variant& variant : kVariants) {
      if (variant.hadamard && (dims.index_dim & (dims.index_dim - 1)) != 0) continue;
      for (const DType operand : kOperandDTypes) {
        for (const WeightForm form : {WeightForm::kBf16, WeightForm::kFp8}) {
          IndexerShape shape = indexer_shape(dims);
          shape.hadamard = variant.hadamard;
          shape.power_of_two_scales = variant.power_of_two_scales;
          rows.push_back({.name = "indexer_prepare_" + std::string(dims.name) + "_" + short_name(operand) +
                                  "_by_" + short_name(form) + "_" + variant.name,
                          .make =
                              [&dims, operand, form, shape](Machine& m, Random& r, int) {
                                return std::make_unique<IndexerPrepareFp8Case>(
                                    m, r, dims, operand, form, IndexerProjection::kFused, shape);
                              },
                          .fp8_keys = true});
        }
      }
    }
  }
  return rows;
}

}  // namespace fulgur::test
