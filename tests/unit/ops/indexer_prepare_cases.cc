#include "ops/indexer_prepare.h"
#include "reference/indexer_prepare.h"
#include "unit/ops/indexer_outputs.h"
#include "unit/ops/mla_weights.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

struct Variant {
  DType operand = DType::kBf16;
  DType keys = DType::kBf16;
  WeightForm form = WeightForm::kBf16;
  WeightForm query_form = WeightForm::kBf16;
  IndexerProjection projection = IndexerProjection::kFused;
  bool aligned = false;  // as libraries and kernels made for some shapes want rows
};

class IndexerPrepareCase : public OpCase<IndexerPrepareCase> {
 public:
  IndexerPrepareCase(Machine& machine, Random& random, const Dims& dims, const IndexerShape& shape,
                     const Variant& variant)
      : shape_(shape),
        projection_(variant.projection),
        batch_(machine, random, dims.batch),
        rope_(machine, dims, batch_.max_context()),
        weights_(machine, random, dims, {variant.form, variant.aligned},
                 {variant.query_form, variant.aligned}),
        x_(machine
               .add(variant.operand, batch_.num_tokens(), dims.hidden, {.padding = variant.aligned ? 8 : 4})
               .fill_normal(random, 1)
               .comes_late()),
        q_latent_(
            machine
                .add(variant.operand, batch_.num_tokens(), dims.q_lora, {.padding = variant.aligned ? 8 : 2})
                .fill_normal(random, 1)
                .comes_late()),
        outputs_(machine, batch_, shape, variant.keys) {}

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

TableRow row(const Dims& dims, const std::string& name, const IndexerShape& shape, const Variant& variant) {
  return {.name = "indexer_prepare_" + std::string(dims.name) + "_" + name,
          .make = [&dims, shape, variant](
                      Machine& m, Random& r,
                      int) { return std::make_unique<IndexerPrepareCase>(m, r, dims, shape, variant); },
          .fp8_keys = variant.keys == DType::kF8E4M3};
}

constexpr std::pair<IndexerProjection, const char*> kProjections[] = {
    {IndexerProjection::kSeparate, "separate"},
    {IndexerProjection::kOverlapped, "overlapped"},
    {IndexerProjection::kFused, "fused"}};

/// Every form of weights and both dtypes, in the three modes; caches of another dtype than the operands; what
/// a library takes.
void add_plain_rows(const Dims& dims, std::vector<TableRow>& rows) {
  const IndexerShape shape = indexer_shape(dims);
  for (const DType operand : kOperandDTypes) {
    for (const WeightForm form : kWeightForms) {
      for (const auto& [projection, text] : kProjections) {
        rows.push_back(row(dims, std::string(short_name(operand)) + "_by_" + short_name(form) + "_" + text,
                           shape, {operand, operand, form, form, projection}));
      }
    }
  }
  for (const DType operand : kOperandDTypes) {
    const DType keys = operand == DType::kBf16 ? DType::kF32 : DType::kBf16;
    rows.push_back(row(dims, std::string(short_name(operand)) + "_keys_" + short_name(keys), shape,
                       {.operand = operand, .keys = keys}));
    rows.back().mixed_caches = true;
  }
  if (dims.hidden % 8 != 0) return;
  for (const auto& [projection, text] : kProjections) {
    rows.push_back(
        row(dims, std::string("aligned_") + text, shape, {.projection = projection, .aligned = true}));
    rows.back().by_library = true;
  }
}

/// Into an FP8 cache: scales and codes, Hadamard or not.
void add_fp8_rows(const Dims& dims, std::vector<TableRow>& rows) {
  struct Codes {
    bool hadamard;
    bool power_of_two_scales;
    const char* name;
  };
  constexpr Codes kCodes[] = {
      {false, true, "fp8"}, {true, true, "fp8_hadamard"}, {false, false, "fp8_any_scale"}};
  for (const Codes& codes : kCodes) {
    if (codes.hadamard && (dims.index_dim & (dims.index_dim - 1)) != 0) continue;
    IndexerShape shape = indexer_shape(dims);
    shape.hadamard = codes.hadamard;
    shape.power_of_two_scales = codes.power_of_two_scales;
    for (const DType operand : kOperandDTypes) {
      for (const WeightForm form : {WeightForm::kBf16, WeightForm::kFp8}) {
        // What becomes of a sum doesn't depend on the form of its weights.
        if (form == WeightForm::kFp8 && (operand == DType::kF32 || !codes.power_of_two_scales)) continue;
        rows.push_back(
            row(dims, std::string(short_name(operand)) + "_by_" + short_name(form) + "_" + codes.name, shape,
                {.operand = operand, .keys = DType::kF8E4M3, .form = form, .query_form = form}));
      }
    }
  }
}

}  // namespace

std::vector<TableRow> indexer_prepare_rows() {
  std::vector<TableRow> rows;
  for (const Dims& dims : published_dims()) {
    rows.push_back(row(dims, "fp8", indexer_shape(dims),
                       {.keys = DType::kF8E4M3, .query_form = WeightForm::kFp8, .aligned = true}));
    rows.back().by_library = true;  // without the tuned kernels
    rows.back().tuned = true;
  }
  for (const Dims& dims : all_dims()) {
    if (dims.index_heads == 0) continue;
    add_plain_rows(dims, rows);
    add_fp8_rows(dims, rows);
  }
  return rows;
}

}  // namespace fulgur::test
