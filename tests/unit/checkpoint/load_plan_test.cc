#include "checkpoint/load_plan.h"

#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <utility>

#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

constexpr int kThreads = 2;

Parameter whole(const std::string& name, int64_t rows, int64_t cols,
                std::vector<WeightForm> held_as = {WeightForm::kBf16}) {
  return {.name = name,
          .rows = rows,
          .cols = cols,
          .spellings = {{{name + ".weight", {{rows, "num_rows"}, {cols, "num_cols"}}}}},
          .held_as = std::move(held_as)};
}

/// [wk; weights_proj]: 4 + 2 rows of 3.
Parameter wk_weights_proj(std::vector<WeightForm> held_as = {WeightForm::kBf16, WeightForm::kF32}) {
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
    values.push_back(weight.form == WeightForm::kBf16 ? to_float(static_cast<const Bf16*>(weight.data)[i])
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
  EXPECT_EQ(loaded.weights[0].form, WeightForm::kBf16);
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
                        .held_as = {WeightForm::kBf16},
                        .arrangement = Arrangement::kUkTransposed,
                        .num_heads = 2,
                        .nope = 2,
                        .value = 1};
  Parameter uv = uk;
  uv.name = "uv";
  uv.rows = 2;
  uv.cols = 3;
  uv.arrangement = Arrangement::kUv;
  for (const WeightForm held : {WeightForm::kBf16, WeightForm::kF32}) {
    std::vector<Parameter> parameters = {uk, uv};
    for (Parameter& parameter : parameters) parameter.held_as = {held};
    const Catalog read = catalog({counting("kv_b_proj.weight", DType::kBf16, {6, 3})});
    const LoadedWeights loaded = execute(resolve(parameters, {}, read), parameters, read, kThreads);
    EXPECT_EQ(values_of(loaded.weights[0]), (std::vector<float>{0, 3, 1, 4, 2, 5, 9, 12, 10, 13, 11, 14}));
    EXPECT_EQ(values_of(loaded.weights[1]), (std::vector<float>{6, 7, 8, 15, 16, 17}));
  }
}

TEST_F(PlanTest, ConvertsWhatItMayNotHoldAsStored) {
  const std::vector<Parameter> parameters = {whole("norm", 1, 4, {WeightForm::kF32})};
  const Catalog read = catalog({counting("norm.weight", DType::kBf16, {1, 4})});
  const LoadPlan plan = resolve(parameters, {}, read);
  EXPECT_EQ(plan.parameters[0].sources[0].steps, std::vector{StepKind::kConvert});
  EXPECT_EQ(values_of(execute(plan, parameters, read, kThreads).weights[0]), counting_values(4));
}

/// resolve()'s problems for the indexer's parameter over these tensors.
class IndexerPlanTest : public PlanTest {
 protected:
  std::vector<Problem> problems(const std::vector<TestTensor>& tensors) {
    const std::vector<Parameter> parameters = {wk_weights_proj()};
    return resolve(parameters, {}, catalog(tensors)).problems;
  }

  const TestTensor wk_ = counting("indexer.wk.weight", DType::kBf16, {4, 3});
  const TestTensor weights_proj_ = counting("indexer.weights_proj.weight", DType::kBf16, {2, 3});
  const TestTensor fused_ = counting("indexer.wk_weights_proj.weight", DType::kBf16, {6, 3});
};

TEST_F(IndexerPlanTest, HalfAPairIsMissingItsOtherHalfAndNamesWhatIsThere) {
  const auto without_weights_proj = problems({wk_});
  ASSERT_EQ(summary(without_weights_proj), "missing_tensor indexer.weights_proj.weight");
  EXPECT_NE(without_weights_proj[0].message.find("indexer.wk.weight"), std::string::npos);
  const auto without_wk = problems({weights_proj_});
  ASSERT_EQ(summary(without_wk), "missing_tensor indexer.wk.weight");
  EXPECT_NE(without_wk[0].message.find("indexer.weights_proj.weight"), std::string::npos);
}

TEST_F(IndexerPlanTest, WithoutAnyFormTheFirstIsMissingAndTheOthersAreNamed) {
  const auto found = problems({});
  ASSERT_EQ(summary(found), "missing_tensor indexer.wk.weight");
  for (const char* name :
       {"indexer.wk.weight", "indexer.weights_proj.weight", "indexer.wk_weights_proj.weight"}) {
    EXPECT_NE(found[0].expected.find(name), std::string::npos) << found[0].expected;
  }
}

TEST_F(IndexerPlanTest, AFusedTensorBesideAHalfOrBothConflictsAndNamesThemAll) {
  EXPECT_EQ(summary(problems({wk_, fused_})), "conflicting_tensors indexer.wk.weight");
  EXPECT_EQ(summary(problems({weights_proj_, fused_})), "conflicting_tensors indexer.weights_proj.weight");
  const auto all = problems({wk_, weights_proj_, fused_});
  ASSERT_EQ(summary(all), "conflicting_tensors indexer.wk.weight");
  for (const TestTensor& tensor : {wk_, weights_proj_, fused_}) {
    EXPECT_NE(all[0].message.find(tensor.name), std::string::npos) << all[0].message;
  }
}

TEST_F(IndexerPlanTest, NamesThatOnlyResembleTheRightOnesAreUnexpected) {
  for (const char* name :
       {"indexer.wk_extra.weight", "indexer.mywk.weight", "indexer.wk_weights_proj_weights_proj.weight",
        "indexer.wk", "indexer.wk.weight.weight", "wk.weight", "model.indexer.wk.weight", "indexer.WK.weight",
        "indexer.wk.weight "}) {
    EXPECT_EQ(summary(problems({fused_, counting(name, DType::kBf16, {4, 3})})),
              std::string("unexpected_tensor ") + name);
  }
}

TEST_F(IndexerPlanTest, AnotherShapeNamesTheConfigFieldThatDisagrees) {
  const auto found = problems({counting("indexer.wk.weight", DType::kBf16, {5, 3}), weights_proj_});
  ASSERT_EQ(summary(found), "shape_mismatch indexer.wk.weight");
  EXPECT_NE(found[0].message.find("index_head_dim"), std::string::npos) << found[0].message;
  EXPECT_EQ(found[0].message.find("hidden_size"), std::string::npos) << found[0].message;
  EXPECT_EQ(found[0].expected, "[4 (index_head_dim), 3 (hidden_size)]");
  EXPECT_EQ(found[0].found, "[5, 3]");
  EXPECT_EQ(found[0].file, "model.safetensors");
}

TEST_F(IndexerPlanTest, TheSameNumberOfValuesInAnotherShapeIsAMismatch) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{3, 4}, {12}, {4, 3, 1}, {1, 4, 3}}) {
    EXPECT_EQ(summary(problems({counting("indexer.wk.weight", DType::kBf16, shape), weights_proj_})),
              "shape_mismatch indexer.wk.weight");
  }
}

TEST_F(IndexerPlanTest, ATypeThatIsUnknownOrCannotStandThereIsRefusedByName) {
  for (const auto& [dtype, width] : std::vector<std::pair<std::string, size_t>>{{"F4", 1},
                                                                                {"I8", 1},
                                                                                {"I32", 4},
                                                                                {"F64", 8},
                                                                                {"BOOL", 1},
                                                                                {"F8_E5M2", 1},
                                                                                {"F8_E8M0", 1},
                                                                                {"bf16", 2}}) {
    const auto found =
        problems({{"indexer.wk.weight", dtype, {4, 3}, std::string(12 * width, '\0')}, weights_proj_});
    ASSERT_EQ(summary(found), "unknown_dtype indexer.wk.weight");
    EXPECT_NE(found[0].message.find(dtype), std::string::npos);
  }
}

TEST_F(IndexerPlanTest, APackedWeightOfAPlainTypeIsAnUnknownType) {
  EXPECT_EQ(summary(problems({counting("indexer.wk.weight_packed", DType::kBf16, {4, 3}), weights_proj_})),
            "unknown_dtype indexer.wk.weight_packed");
}

TEST_F(IndexerPlanTest, TwoStorageFormsOfOneWeightConflict) {
  EXPECT_EQ(summary(problems(
                {wk_, weights_proj_, {"indexer.wk.weight_packed", "U8", {4, 2}, std::string(8, '\0')}})),
            "conflicting_tensors indexer.wk.weight");
}

TEST_F(IndexerPlanTest, AScaleBesideAnUnquantizedWeightIsAnOrphan) {
  EXPECT_EQ(
      summary(problems({wk_, weights_proj_, counting("indexer.wk.weight_scale_inv", DType::kF32, {1, 1})})),
      "orphan_scale indexer.wk.weight_scale_inv");
  EXPECT_EQ(summary(problems({fused_, counting("indexer.wk.weight_scale_inv", DType::kF32, {1, 1})})),
            "orphan_scale indexer.wk.weight_scale_inv");
}

TEST_F(PlanTest, ATensorWithoutANameIsShownBetweenQuotes) {
  const std::vector<Parameter> parameters = {whole("norm", 1, 4)};
  const auto found = resolve(parameters, {},
                             catalog({counting("norm.weight", DType::kF32, {1, 4}),
                                      {"", "U8", {1}, "x"},
                                      {"a b", "U8", {1}, "x"}}))
                         .problems;
  ASSERT_EQ(found.size(), 2U);
  EXPECT_TRUE(found[0].message.starts_with("'' is a tensor")) << found[0].message;
  EXPECT_TRUE(found[0].found.starts_with("'' (U8")) << found[0].found;
  EXPECT_TRUE(found[1].message.starts_with("'a b' is a tensor")) << found[1].message;
}

TEST_F(PlanTest, AQuantizedTypeWhereNoneMayBeIsAnUnknownType) {
  const std::vector<Parameter> parameters = {whole("norm", 1, 4), whole("embed", 2, 4)};
  const auto found = resolve(parameters, {},
                             catalog({{"norm.weight", "U8", {1, 4}, std::string(4, 'x')},
                                      {"embed.weight", "F8_E4M3", {2, 4}, std::string(8, 'x')},
                                      counting("embed.weight_scale_inv", DType::kF32, {1, 1})}))
                         .problems;
  EXPECT_EQ(summary(found), "unknown_dtype embed.weight\nunknown_dtype norm.weight");
}

TEST_F(PlanTest, ARivalBesideAParameterConflictsAndOneInItsPlaceIsNamed) {
  Parameter q_a = whole("q_a_proj", 2, 3);
  q_a.rivals = {"q_proj.weight"};
  const std::vector<Parameter> parameters = {q_a};
  const TestTensor rival = counting("q_proj.weight", DType::kBf16, {2, 3});
  const auto both =
      resolve(parameters, {}, catalog({counting("q_a_proj.weight", DType::kBf16, {2, 3}), rival})).problems;
  ASSERT_EQ(summary(both), "conflicting_tensors q_a_proj.weight");
  EXPECT_NE(both[0].message.find("q_proj.weight"), std::string::npos);
  const auto other = resolve(parameters, {}, catalog({rival})).problems;
  ASSERT_EQ(summary(other), "missing_tensor q_a_proj.weight");
  EXPECT_NE(other[0].found.find("q_proj.weight"), std::string::npos);
}

TEST_F(PlanTest, EveryTensorIsConsumedIgnoredByANamedRuleOrAProblem) {
  const std::vector<Parameter> parameters = {whole("model.layers.0.gate", 2, 3)};
  const std::vector<IgnoreRule> ignore = {{"rotary tables", "**.rotary_emb.inv_freq"},
                                          {"unused layers", "model.layers.>=1.**"}};
  const Catalog read = catalog({counting("model.layers.0.gate.weight", DType::kBf16, {2, 3}),
                                counting("model.layers.0.rotary_emb.inv_freq", DType::kF32, {2}),
                                {"model.layers.1.gate.weight", "F4", {9}, "odd"},
                                counting("model.layers.0.gate_proj.weight", DType::kBf16, {2, 3})});
  const LoadPlan plan = resolve(parameters, ignore, read);
  EXPECT_EQ(summary(plan.problems), "unexpected_tensor model.layers.0.gate_proj.weight");
  ASSERT_EQ(plan.ignored.size(), 2U);
  EXPECT_EQ(plan.ignored[0].rule, "rotary tables");
  EXPECT_EQ(read.entries[static_cast<size_t>(plan.ignored[1].entry)].name, "model.layers.1.gate.weight");
  EXPECT_EQ(plan.ignored[1].rule, "unused layers");
}

TEST_F(PlanTest, AParameterThatARuleWouldIgnoreIsUsed) {
  const std::vector<Parameter> parameters = {whole("model.layers.1.gate", 2, 3)};
  const std::vector<IgnoreRule> ignore = {{"unused layers", "model.layers.>=1.**"}};
  const LoadPlan plan =
      resolve(parameters, ignore, catalog({counting("model.layers.1.gate.weight", DType::kBf16, {2, 3})}));
  EXPECT_TRUE(plan.problems.empty());
  EXPECT_TRUE(plan.ignored.empty());
}

TEST_F(PlanTest, AllProblemsAreReportedAndExecutionRefusesThem) {
  const std::vector<Parameter> parameters = {whole("a", 2, 3), whole("b", 2, 3), whole("c", 2, 3)};
  const Catalog read = catalog({counting("a.weight", DType::kBf16, {3, 2}),
                                {"b.weight", "I8", {2, 3}, "xxxxxx"},
                                counting("d.weight", DType::kBf16, {1})});
  const LoadPlan plan = resolve(parameters, {}, read);
  EXPECT_EQ(
      summary(plan.problems),
      "missing_tensor c.weight\nshape_mismatch a.weight\nunexpected_tensor d.weight\nunknown_dtype b.weight");
  EXPECT_EQ(summary(problems_of([&] { execute(plan, parameters, read, kThreads); })), summary(plan.problems));
}

TEST_F(PlanTest, ATensorThatTwoParametersDivideIsComplainedOfOnce) {
  Parameter uk = whole("kv_b_proj", 6, 3);
  uk.arrangement = Arrangement::kUkTransposed;
  Parameter uv = uk;
  uv.arrangement = Arrangement::kUv;
  const std::vector<Parameter> parameters = {uk, uv};
  EXPECT_EQ(
      summary(
          resolve(parameters, {}, catalog({counting("kv_b_proj.weight", DType::kBf16, {6, 4})})).problems),
      "shape_mismatch kv_b_proj.weight");
  EXPECT_EQ(summary(resolve(parameters, {}, catalog({})).problems), "missing_tensor kv_b_proj.weight");
}

struct HeldCase {
  std::vector<WeightForm> held_as;
  WeightForm wk;
  WeightForm weights_proj;
  WeightForm held;
};

class Held : public PlanTest, public ::testing::WithParamInterface<HeldCase> {};

TEST_P(Held, IsAsStoredOrExactOrTheFirst) {
  const std::vector<Parameter> parameters = {wk_weights_proj(GetParam().held_as)};
  const auto tensor = [](const char* name, WeightForm form, int64_t rows) {
    const DType dtype = stored_dtype(form);
    return TestTensor{name,
                      std::string(fulgur::name(dtype)),
                      {rows, 3},
                      std::string(static_cast<size_t>(rows) * 3 * size_bytes(dtype), '\0')};
  };
  const LoadPlan plan = resolve(parameters, {},
                                catalog({tensor("indexer.wk.weight", GetParam().wk, 4),
                                         tensor("indexer.weights_proj.weight", GetParam().weights_proj, 2)}));
  ASSERT_TRUE(plan.problems.empty());
  EXPECT_EQ(plan.parameters[0].held, GetParam().held);
}

constexpr auto kB = WeightForm::kBf16;
constexpr auto kH = WeightForm::kF16;
constexpr auto kS = WeightForm::kF32;
INSTANTIATE_TEST_SUITE_P(Table, Held,
                         ::testing::Values(HeldCase{{kB, kS}, kB, kB, kB}, HeldCase{{kB, kS}, kS, kS, kS},
                                           HeldCase{{kB, kS}, kB, kS, kS}, HeldCase{{kB, kS}, kH, kH, kS},
                                           HeldCase{{kB, kS}, kH, kB, kS}, HeldCase{{kB}, kS, kB, kB},
                                           HeldCase{{kB}, kH, kH, kB}, HeldCase{{kS}, kB, kB, kS},
                                           HeldCase{{kB, kH, kS}, kH, kH, kH},
                                           HeldCase{{kH, kB}, kS, kS, kB}));

TEST_F(PlanTest, MixedTypesAreConcatenatedExactly) {
  const std::vector<Parameter> parameters = {wk_weights_proj()};
  TestTensor wk = counting("indexer.wk.weight", DType::kF32, {4, 3});
  const float fine = 1.00001F;
  std::memcpy(wk.data.data() + 4, &fine, sizeof(fine));
  const Catalog read = catalog({counting("indexer.weights_proj.weight", DType::kBf16, {2, 3}, 12), wk});
  const LoadPlan plan = resolve(parameters, {}, read);
  EXPECT_EQ(plan.parameters[0].sources[0].steps, std::vector{StepKind::kCopy});
  EXPECT_EQ(plan.parameters[0].sources[1].steps, (std::vector{StepKind::kConvert, StepKind::kConcatRows}));
  std::vector<float> expected = counting_values(18);
  expected[1] = fine;
  EXPECT_EQ(values_of(execute(plan, parameters, read, kThreads).weights[0]), expected);
}

TEST_F(PlanTest, CopiesAreAlignedToACacheLineAndCounted) {
  std::vector<Parameter> parameters;
  std::vector<TestTensor> tensors;
  for (int i = 0; i < 7; ++i) {
    const std::string name = "m" + std::to_string(i);
    parameters.push_back(whole(name, 1, 5 + i, {i % 2 == 0 ? WeightForm::kBf16 : WeightForm::kF32}));
    tensors.push_back(counting(name + ".weight", DType::kBf16, {1, 5 + i}));
  }
  const Catalog read = catalog(tensors);
  const LoadPlan plan = resolve(parameters, {}, read);
  const LoadedWeights loaded = execute(plan, parameters, read, kThreads);
  uint64_t copied = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Weight& weight = loaded.weights[i];
    EXPECT_EQ(values_of(weight), counting_values(5 + static_cast<int>(i)));
    if (plan.parameters[i].sources[0].steps.front() == StepKind::kMap) continue;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(weight.data) % 64, 0U);
    copied += static_cast<uint64_t>(row_bytes(weight.form, weight.cols));
  }
  EXPECT_GT(copied, 0U);
  EXPECT_EQ(loaded.copied_bytes, copied);
}

TEST_F(PlanTest, LoadsTheSameWithAnyNumberOfThreadsAndReportsEveryByte) {
  constexpr int64_t kRows = 3000;  // several tasks
  constexpr int64_t kCols = 1000;
  const std::vector<Parameter> parameters = {whole("big", kRows, kCols, {WeightForm::kF32})};
  const Catalog read = catalog({counting("big.weight", DType::kBf16, {kRows, kCols})});
  const LoadPlan plan = resolve(parameters, {}, read);
  const std::vector<float> once = values_of(execute(plan, parameters, read, 1).weights[0]);
  EXPECT_EQ(once[2'999'999], to_float(to_bf16(2'999'999)));
  uint64_t last = 0;
  uint64_t total = 0;
  const LoadedWeights loaded = execute(plan, parameters, read, 3, [&](uint64_t done, uint64_t all) {
    EXPECT_GE(done, last);
    last = done;
    total = all;
  });
  EXPECT_EQ(values_of(loaded.weights[0]), once);
  EXPECT_EQ(total, read.entries[0].bytes);
  EXPECT_EQ(last, total);
}

TEST_F(PlanTest, WeightsOutliveTheCatalog) {
  const std::vector<Parameter> parameters = {whole("a", 2, 3)};
  LoadedWeights loaded;
  {
    const Catalog read = catalog({counting("a.weight", DType::kBf16, {2, 3})});
    loaded = execute(resolve(parameters, {}, read), parameters, read, kThreads);
  }
  EXPECT_EQ(values_of(loaded.weights[0]), counting_values(6));
}

TEST_F(PlanTest, AParameterThatItsPartsDoNotFillIsAMistakeOfTheCaller) {
  Parameter wrong = whole("a", 2, 3);
  wrong.rows = 3;
  const std::vector<Parameter> parameters = {wrong};
  const Catalog read = catalog({counting("a.weight", DType::kBf16, {2, 3})});
  EXPECT_THROW(execute(resolve(parameters, {}, read), parameters, read, kThreads), std::logic_error);
  const std::vector<Parameter> in_f16 = {whole("a", 2, 3, {WeightForm::kF16})};
  EXPECT_THROW(execute(resolve(in_f16, {}, read), in_f16, read, kThreads), std::logic_error);
}

}  // namespace
}  // namespace fulgur
