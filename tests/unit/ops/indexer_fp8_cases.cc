// indexer_prepare into an FP8 cache: scales and codes, Hadamard or not.

#include "ops/indexer_prepare.h"
#include "reference/indexer_prepare.h"
#include "unit/ops/indexer_outputs.h"
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
        weights_(machine, random, dims, {form, as_published},
                 {as_published ? WeightForm::kFp8 : form, as_published}),
        x_(machine.add(operand, batch_.num_tokens(), dims.hidden, {.padding = as_published ? 8 : 4})
               .fill_normal(random, 1)
               .comes_late()),
        q_latent_(machine.add(operand, batch_.num_tokens(), dims.q_lora, {.padding = as_published ? 8 : 2})
                      .fill_normal(random, 1)
                      .comes_late()),
        outputs_(machine, batch_, shape, DType::kF8E4M3) {}

  [[nodiscard]] int num_rows() const override { return batch_.num_tokens(); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(),
            [&](const IndexerPrepare& op) { outputs_.expect(reference::indexer_prepare(op)); });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    const TokenBatch batch = batch_.rows(side, first, count);
    const RopeTable rope = rope_.table(side);
    const IndexerWeights weights = weights_.weights(side);
    f(IndexerPrepare{x_.operand(side, first, count), q_latent_.operand(side, first, count), weights, shape_,
                     projection_, rope, batch, outputs_.q(side, first, count),
                     outputs_.head_weights(side, first, count), outputs_.keys(side)});
  }

 private:
  IndexerShape shape_;
  IndexerProjection projection_;
  Batch batch_;
  RopeBuffers rope_;
  IndexerWeightBuffers weights_;
  Buffer& x_;
  Buffer& q_latent_;
  IndexerOutputs outputs_;
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
                    .by_library = true,  // without the tuned kernels
                    .tuned = true});
  }
  for (const Dims& dims : all_dims()) {
    if (dims.index_heads == 0) continue;
    for (const Variant& variant : kVariants) {
      if (variant.hadamard && (dims.index_dim & (dims.index_dim - 1)) != 0) continue;
      for (const DType operand : kOperandDTypes) {
        for (const WeightForm form : {WeightForm::kBf16, WeightForm::kFp8}) {
          // What becomes of a sum doesn't depend on the form of its weights.
          if (form == WeightForm::kFp8 && (operand == DType::kF32 || !variant.power_of_two_scales)) continue;
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
