#include "checkpoint/load_plan.h"

#include <gtest/gtest.h>

#include <tuple>

#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

constexpr int kThreads = 2;

Parameter whole(const std::string& name, int64_t rows, int64_t cols,
                std::vector<DType> held_as = {DType::kBf16}) {
  return {.name = name,
          .rows = rows,
          .cols = cols,
          .spellings = {{{name + ".weight", {{rows, "num_rows"}, {cols, "num_cols"}}}}},
          .held_as = std::move(held_as)};
}

/// [wk; weights_proj]: 4 + 2 rows of 3.
Parameter wk_weights_proj(std::vector<DType> held_as = {DType::kBf16, DType::kF32}) {
  return {.name = "indexer.wk_weights_proj",
          .rows = 6,
          .cols = 3,
          .spellings = {{{"indexer.wk.weight", {{4, "index_head_dim"}, {3, "hidden_size"}}},
                         {"indexer.weights_proj.weight", {{2, "index_n_heads"}, {3, "hidden_size"}}}},
                        {{"indexer.wk_weights_proj.weight",
                          {{6, "index_head_dim + index_n_heads"}, {3, "hidden_size"}}}}},
          .held_as = std::move(held_as),
          .quantizable = true};
}

/// A checkpoint of one file, read back.
class PlanTest : public ::testing::Test {
 protected:
  Catalog catalog(const std::vector<TestTensor>& tensors, size_t padding = 0) {
    write_bytes(folder_ / "model.safetensors", good_safetensors(tensors, padding));
    return read_catalog(folder_.path());
  }

  TemporaryFolder folder_;
};

std::vector<float> values_of(const Weight& weight) {
  std::vector<float> values;
  for (int64_t i = 0; i < weight.rows * weight.cols; ++i) {
    values.push_back(weight.form == DType::kBf16 ? to_float(static_cast<const Bf16*>(weight.data)[i])
                                                 : static_cast<const float*>(weight.data)[i]);
  }
  return values;
}

std::vector<float> counting_values(int count, int first = 0) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) values.push_back(static_cast<float>(first + i));
  return values;
}

TEST_F(PlanTest, PlacesWkAboveWeightsProj) {
  const std::vector<Parameter> parameters = {wk_weights_proj()};
  const Catalog read = catalog({counting("indexer.weights_proj.weight", DType::kBf16, {2, 3}, 12),
                                counting("indexer.wk.weight", DType::kBf16, {4, 3})});
  const LoadedWeights loaded = execute(resolve(parameters, {}, read), parameters, read, kThreads);
  EXPECT_EQ(loaded.weights[0].form, DType::kBf16);
  EXPECT_EQ(values_of(loaded.weights[0]), counting_values(18));
}

TEST_F(PlanTest, MapsAnAlreadyFusedTensorWithoutACopy) {
  for (const size_t padding : {0, 1}) {
    const std::vector<Parameter> parameters = {wk_weights_proj()};
    const Catalog read = catalog({counting("indexer.wk_weights_proj.weight", DType::kBf16, {6, 3})}, padding);
    const LoadPlan plan = resolve(parameters, {}, read);
    const LoadedWeights loaded = execute(plan, parameters, read, kThreads);
    EXPECT_EQ(values_of(loaded.weights[0]), counting_values(18));
    const bool aligned = read.entries[0].offset % sizeof(Bf16) == 0;
    EXPECT_EQ(plan.parameters[0].sources[0].steps, std::vector{aligned ? StepKind::kMap : StepKind::kCopy});
    EXPECT_EQ(loaded.weights[0].data == static_cast<const void*>(read.bytes(read.entries[0]).data()),
              aligned);
  }
}

TEST_F(PlanTest, LaysUkTransposedAndUvOutOfTheSameTensor) {
  // 2 heads of dn = 2, dv = 1, r = 3: head h's rows are 9h + {0,1,2 | 3,4,5} for UK and 9h + {6,7,8} for UV.
  const std::vector<std::vector<Part>> spellings = {
      {{"kv_b_proj.weight", {{6, "num_heads * (dn + dv)"}, {3, "kv_lora_rank"}}}}};
  const Parameter uk = {.name = "uk",
                        .rows = 6,
                        .cols = 2,
                        .spellings = spellings,
                        .held_as = {DType::kBf16},
                        .arrangement = Arrangement::kUkTransposed,
                        .num_heads = 2,
                        .nope = 2,
                        .value = 1};
  Parameter uv = uk;
  uv.name = "uv";
  uv.rows = 2;
  uv.cols = 3;
  uv.arrangement = Arrangement::kUv;
  for (const DType held : {DType::kBf16, DType::kF32}) {
    std::vector<Parameter> parameters = {uk, uv};
    for (Parameter& parameter : parameters) parameter.held_as = {held};
    const Catalog read = catalog({counting("kv_b_proj.weight", DType::kBf16, {6, 3})});
    const LoadedWeights loaded = execute(resolve(parameters, {}, read), parameters, read, kThreads);
    EXPECT_EQ(values_of(loaded.weights[0]), (std::vector<float>{0, 3, 1, 4, 2, 5, 9, 12, 10, 13, 11, 14}));
    EXPECT_EQ(values_of(loaded.weights[1]), (std::vector<float>{6, 7, 8, 15, 16, 17}));
  }
}

TEST_F(PlanTest, ConvertsWhatItMayNotHoldAsStored) {
  const std::vector<Parameter> parameters = {whole("norm", 1, 4, {DType::kF32})};
  const Catalog read = catalog({counting("norm.weight", DType::kBf16, {1, 4})});
  const LoadPlan plan = resolve(parameters, {}, read);
  EXPECT_EQ(plan.parameters[0].sources[0].steps, std::vector{StepKind::kConvert});
  EXPECT_EQ(values_of(execute(plan, parameters, read, kThreads).weights[0]), counting_values(4));
}

}  // namespace
}  // namespace fulgur
