// Every published way to store a module's weight (docs/spec/checkpoints.md, sections 3 and 4).

#include "stored_forms.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "form_fixture.h"

namespace fulgur {
namespace {

constexpr WeightForm kPlain[] = {WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32};

bool is_quantized(const std::string& form) { return form.starts_with("fp8") || form.starts_with("nvfp4"); }

float value_at(const Weight& weight, size_t i) {
  return weight.form == WeightForm::kBf16  ? to_float(static_cast<const Bf16*>(weight.data)[i])
         : weight.form == WeightForm::kF16 ? half_to_float(static_cast<const uint16_t*>(weight.data)[i])
                                           : static_cast<const float*>(weight.data)[i];
}

/// A plain weight's values are the nearest to those that are stood for.
void expect_values(const Weight& weight, const std::vector<double>& values) {
  ASSERT_EQ(weight.rows * weight.cols, static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) {
    const float expected =
        weight.form == WeightForm::kBf16 ? nearest_bf16(values[i]) : static_cast<float>(values[i]);
    ASSERT_EQ(value_at(weight, i), expected) << i;
  }
}

class Form : public FormTest, public ::testing::WithParamInterface<std::string> {
 protected:
  const StoredForm stored_ = stored_as(GetParam(), "m", kRows, kCols);
  const std::vector<Parameter> parameters_ = {matrix("m")};
};

INSTANTIATE_TEST_SUITE_P(Each, Form, ::testing::ValuesIn(kFormNames),
                         [](const auto& info) { return info.param; });

TEST_P(Form, IsHeldAsItIsStoredWithoutACopyOfItsCodes) {
  const Catalog read = catalog(stored_.tensors);
  const LoadPlan plan = resolve(parameters_, {}, read, stored_.fp8);
  ASSERT_EQ(summary(plan.problems), "");
  const LoadedWeights loaded = execute(plan, parameters_, read, kThreads);
  const Weight& weight = loaded.weights[0];
  EXPECT_EQ(weight.rows, kRows);
  EXPECT_EQ(weight.cols, kCols);
  EXPECT_EQ(weight.form, plan.parameters[0].held);
  const std::string label = form_text(plan.parameters[0].sources[0]);
  if (!is_quantized(GetParam())) {
    EXPECT_EQ(label, GetParam());
    expect_values(weight, stored_.values);
    return;
  }
  EXPECT_EQ(weight.form, GetParam().starts_with("fp8") ? WeightForm::kFp8 : WeightForm::kNvfp4);
  const PlannedSource& source = plan.parameters[0].sources[0];
  EXPECT_EQ(static_cast<const void*>(read.bytes(read.entries[static_cast<size_t>(source.entry)]).data()),
            weight.data);
  // The view stands for the right values, element by element, by its own definition.
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    const int64_t row = i / kCols;
    const int64_t col = i % kCols;
    const auto* codes = static_cast<const uint8_t*>(weight.data);
    double value = 0;
    if (weight.form == WeightForm::kFp8) {
      value = e4m3_value(codes[i]) * static_cast<double>(weight.block_scales(row)[col / weight.block_cols]);
    } else {
      const int pair = codes[i / 2];
      value = e2m1_value(i % 2 == 0 ? pair & 15 : pair >> 4) *
              e4m3_value(weight.group_scales(row)[col / 16]) * weight.global;
    }
    ASSERT_EQ(value, stored_.values[static_cast<size_t>(i)]) << i;
  }
}

TEST_P(Form, IsDequantizedForABackEndThatDoesNotReadIt) {
  const Catalog read = catalog(stored_.tensors);
  for (const WeightForm first : {WeightForm::kBf16, WeightForm::kF32}) {
    std::vector<WeightForm> held_as = {first};
    held_as.insert(held_as.end(), kAnyForm.begin(), kAnyForm.end());
    const std::vector<Parameter> parameters = {matrix("m", kRows, kCols, held_as)};
    const LoadPlan plan = resolve(parameters, {}, read, stored_.fp8, kPlain);
    ASSERT_EQ(summary(plan.problems), "");
    if (is_quantized(GetParam())) {
      EXPECT_EQ(plan.parameters[0].held, first);
    }
    expect_values(execute(plan, parameters, read, kThreads).weights[0], stored_.values);
  }
}

TEST_P(Form, LoadsFromAShardForEachTensorInAnyOrder) {
  std::vector<TestTensor> tensors = stored_.tensors;
  std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  const std::vector<Parameter> parameters = {matrix("m", kRows, kCols, {WeightForm::kF32})};
  do {
    const Catalog read = catalog_of_shards(tensors);
    const LoadPlan plan = resolve(parameters, {}, read, stored_.fp8);
    ASSERT_EQ(summary(plan.problems), "");
    expect_values(execute(plan, parameters, read, kThreads).weights[0], stored_.values);
  } while (std::next_permutation(tensors.begin(), tensors.end(),
                                 [](const auto& a, const auto& b) { return a.name < b.name; }));
}

TEST_P(Form, IsRefusedWithoutAnyOfItsTensorsButTheUnneededOnes) {
  for (size_t i = 0; i < stored_.tensors.size(); ++i) {
    std::vector<TestTensor> left = stored_.tensors;
    const std::string taken = left[i].name;
    left.erase(left.begin() + static_cast<long>(i));
    const auto problems = resolve(parameters_, {}, catalog(left), stored_.fp8).problems;
    if (taken.starts_with("m.input")) {
      EXPECT_EQ(summary(problems), "");
    } else if (taken == stored_.tensors[0].name && !is_quantized(GetParam())) {
      EXPECT_EQ(summary(problems), "missing_tensor m.weight");
    } else if (taken == "m.weight" || taken == "m.weight_packed") {
      ASSERT_FALSE(problems.empty());
      EXPECT_EQ(problems[0].kind, ErrorKind::kMissingTensor);
      EXPECT_EQ(problems[0].tensor, "m.weight");
      for (size_t p = 1; p < problems.size(); ++p) EXPECT_EQ(problems[p].kind, ErrorKind::kOrphanScale);
      EXPECT_EQ(problems.size(), left.size() + 1);
    } else {
      ASSERT_EQ(problems.size(), 1U) << summary(problems);
      EXPECT_EQ(problems[0].kind, ErrorKind::kMissingScale);
      EXPECT_NE(problems[0].message.find(taken), std::string::npos) << problems[0].message;
      EXPECT_TRUE(problems[0].message.starts_with(problems[0].tensor)) << problems[0].message;
    }
  }
}

TEST_P(Form, IsRefusedWithAnyTensorOfAnotherShape) {
  for (size_t i = 0; i < stored_.tensors.size(); ++i) {
    if (stored_.tensors[i].name.starts_with("m.input")) continue;
    std::vector<TestTensor> changed = stored_.tensors;
    TestTensor& tensor = changed[i];
    const size_t width =
        tensor.data.size() /
        static_cast<size_t>(std::max<int64_t>(
            1, std::accumulate(tensor.shape.begin(), tensor.shape.end(), int64_t{1}, std::multiplies<>())));
    tensor.shape.insert(tensor.shape.begin(), 2);
    tensor.data += std::string(tensor.data);
    EXPECT_EQ(summary(resolve(parameters_, {}, catalog(changed), stored_.fp8).problems),
              "shape_mismatch " + tensor.name);
    for (size_t d = 0; d < stored_.tensors[i].shape.size(); ++d) {
      tensor = stored_.tensors[i];
      ++tensor.shape[d];
      int64_t count = 1;
      for (const int64_t dim : tensor.shape) count *= dim;
      tensor.data.resize(static_cast<size_t>(count) * width, '\0');
      const auto problems = resolve(parameters_, {}, catalog(changed), stored_.fp8).problems;
      ASSERT_EQ(summary(problems), "shape_mismatch " + tensor.name);
      EXPECT_FALSE(problems[0].expected.empty());
      EXPECT_NE(problems[0].found.find(std::to_string(tensor.shape[d])), std::string::npos);
    }
  }
}

TEST_P(Form, IsAnUnknownTypeWhereNoModuleIsEverQuantized) {
  std::vector<Parameter> parameters = parameters_;
  parameters[0].quantizable = false;
  const auto problems = resolve(parameters, {}, catalog(stored_.tensors), stored_.fp8).problems;
  const auto weight = std::find_if(
      stored_.tensors.begin(), stored_.tensors.end(),
      [](const TestTensor& tensor) { return tensor.name == "m.weight" || tensor.name == "m.weight_packed"; });
  EXPECT_EQ(summary(problems), is_quantized(GetParam()) ? "unknown_dtype " + weight->name : "");
}

/// Input scales are ignored by name, and nothing else is.
TEST_P(Form, UsesEveryTensorButTheScalesOfActivations) {
  const Catalog read = catalog(stored_.tensors);
  const LoadPlan plan = resolve(parameters_, {}, read, stored_.fp8);
  size_t used = plan.ignored.size();
  for (const IgnoredTensor& ignored : plan.ignored) {
    EXPECT_TRUE(read.entries[static_cast<size_t>(ignored.entry)].name.starts_with("m.input"));
    EXPECT_NE(ignored.rule.find("activations"), std::string::npos);
  }
  for (const PlannedSource& source : plan.parameters[0].sources) used += 1 + source.scales.size();
  EXPECT_EQ(used, read.entries.size());
}

TEST_F(FormTest, StepsAreNamedAsPeopleCallThem) {
  struct Case {
    std::string form;
    WeightForm held;
    std::vector<std::string> weight;
    std::vector<std::vector<std::string>> scales;
  };
  using Steps = std::vector<std::string>;
  const Case cases[] = {
      {"bf16", WeightForm::kBf16, {"map"}, {}},
      {"bf16", WeightForm::kF32, {"convert bf16 -> f32"}, {}},
      {"fp8_block", WeightForm::kFp8, {"map"}, {Steps{"copy"}}},
      {"fp8_block", WeightForm::kBf16, {"dequantize fp8-block 128x128 -> bf16"}, {Steps{"copy"}}},
      {"fp8_block_e8m0_scales", WeightForm::kFp8, {"map"}, {Steps{"convert F8_E8M0 -> F32"}}},
      {"fp8_row", WeightForm::kF32, {"dequantize fp8-row -> f32"}, {Steps{"copy"}}},
      {"fp8_tensor_scalar", WeightForm::kBf16, {"dequantize fp8-tensor -> bf16"}, {Steps{"copy"}}},
      {"nvfp4_modelopt", WeightForm::kNvfp4, {"map"}, {Steps{"map"}, Steps{"multiply by"}}},
      {"nvfp4_ct", WeightForm::kF32, {"dequantize nvfp4-ct -> f32"}, {Steps{"map"}, Steps{"divide by"}}},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.form);
    const StoredForm stored = stored_as(c.form, "m", kRows, kCols);
    const std::vector<Parameter> parameters = {matrix("m", kRows, kCols, {c.held})};
    const Catalog read = catalog(stored.tensors);
    const LoadPlan plan = resolve(parameters, {}, read, stored.fp8);
    ASSERT_EQ(summary(plan.problems), "");
    const PlannedSource& source = plan.parameters[0].sources[0];
    EXPECT_EQ(step_texts(source, plan.parameters[0].held), c.weight);
    std::vector<Steps> scales;
    for (const PlannedScale& scale : source.scales) scales.push_back(step_texts(scale, read));
    EXPECT_EQ(scales, c.scales);
  }
}

/// kv_b_proj of 3 heads with dn + dv = 88: heads begin and end inside blocks.
TEST_F(FormTest, UkAndUvKeepThePhaseOfTheBlocksOfKvB) {
  constexpr int64_t kHeads = 3;
  constexpr int64_t kNope = 56;
  constexpr int64_t kValue = 32;
  constexpr int64_t kLatent = 144;
  for (const std::string& form : kFormNames) {
    for (const WeightForm held : {WeightForm::kBf16, WeightForm::kF32}) {
      SCOPED_TRACE(form);
      const StoredForm stored = stored_as(form, "kv_b_proj", kHeads * (kNope + kValue), kLatent);
      Parameter uk = matrix("kv_b_proj", kHeads * (kNope + kValue), kLatent, {held});
      uk.rows = kHeads * kLatent;
      uk.cols = kNope;
      uk.arrangement = Arrangement::kUkTransposed;
      uk.num_heads = kHeads;
      uk.nope = kNope;
      uk.value = kValue;
      Parameter uv = uk;
      uv.rows = kHeads * kValue;
      uv.cols = kLatent;
      uv.arrangement = Arrangement::kUv;
      const std::vector<Parameter> parameters = {uk, uv};
      const Catalog read = catalog(stored.tensors);
      const LoadPlan plan = resolve(parameters, {}, read, stored.fp8);
      ASSERT_EQ(summary(plan.problems), "");
      const LoadedWeights loaded = execute(plan, parameters, read, kThreads);
      std::vector<double> transposed;
      std::vector<double> values;
      const auto at = [&](int64_t row, int64_t col) {
        return stored.values[static_cast<size_t>(row * kLatent + col)];
      };
      for (int64_t head = 0; head < kHeads; ++head) {
        const int64_t first = head * (kNope + kValue);
        for (int64_t col = 0; col < kLatent; ++col) {
          for (int64_t row = 0; row < kNope; ++row) transposed.push_back(at(first + row, col));
        }
        for (int64_t row = kNope; row < kNope + kValue; ++row) {
          for (int64_t col = 0; col < kLatent; ++col) values.push_back(at(first + row, col));
        }
      }
      expect_values(loaded.weights[0], transposed);
      expect_values(loaded.weights[1], values);
    }
  }
}

/// GLM's fused projection in small: 64 + 5 rows, one block row over both.
constexpr int64_t kHeadDim = 64;
constexpr int64_t kHeads = 5;
constexpr int64_t kHidden = 144;

Parameter wk_weights_proj(WeightForm held) {
  const Dim dim{kHeadDim, "index_head_dim"};
  const Dim heads{kHeads, "index_n_heads"};
  const Dim both{kHeadDim + kHeads, "index_head_dim + index_n_heads"};
  const Dim hidden{kHidden, "hidden_size"};
  return {
      .name = "indexer.wk_weights_proj",
      .rows = both.size,
      .cols = hidden.size,
      .spellings = {{{"indexer.wk.weight", {dim, hidden}}, {"indexer.weights_proj.weight", {heads, hidden}}},
                    {{"indexer.wk_weights_proj.weight", {both, hidden}}}},
      .held_as = {held},
      .quantizable = true};
}

Fp8Scheme both(const Fp8Scheme& a, const Fp8Scheme& b) {
  return {.block_scales = a.block_scales || b.block_scales,
          .row_scales = a.row_scales || b.row_scales,
          .tensor_scales = a.tensor_scales || b.tensor_scales,
          .u8_scales = a.u8_scales || b.u8_scales};
}

class IndexerFormTest : public FormTest {
 protected:
  void expect_loaded(const std::vector<TestTensor>& tensors, const Fp8Scheme& fp8,
                     const std::vector<double>& values) {
    for (const WeightForm held : {WeightForm::kBf16, WeightForm::kF32}) {
      const std::vector<Parameter> parameters = {wk_weights_proj(held)};
      const Catalog read = catalog(tensors);
      const LoadPlan plan = resolve(parameters, {}, read, fp8);
      ASSERT_EQ(summary(plan.problems), "");
      const LoadedWeights loaded = execute(plan, parameters, read, kThreads);
      ASSERT_EQ(loaded.weights[0].form, held);
      expect_values(loaded.weights[0], values);
    }
  }
};

TEST_F(IndexerFormTest, IsMadeFromWkAndWeightsProjInAnyTwoForms) {
  for (const std::string& wk_form : kFormNames) {
    for (const std::string& proj_form : kFormNames) {
      SCOPED_TRACE(wk_form + " and " + proj_form);
      const StoredForm wk = stored_as(wk_form, "indexer.wk", kHeadDim, kHidden, 1);
      const StoredForm proj = stored_as(proj_form, "indexer.weights_proj", kHeads, kHidden, 2);
      std::vector<TestTensor> tensors = proj.tensors;
      tensors.insert(tensors.end(), wk.tensors.begin(), wk.tensors.end());
      std::vector<double> values = wk.values;
      values.insert(values.end(), proj.values.begin(), proj.values.end());
      expect_loaded(tensors, both(wk.fp8, proj.fp8), values);
    }
  }
}

TEST_F(IndexerFormTest, IsTakenAlreadyFusedInAnyForm) {
  for (const std::string& form : kFormNames) {
    SCOPED_TRACE(form);
    const StoredForm fused = stored_as(form, "indexer.wk_weights_proj", kHeadDim + kHeads, kHidden);
    expect_loaded(fused.tensors, fused.fp8, fused.values);
  }
}

TEST_F(IndexerFormTest, IsRefusedForAnyTensorThatIsMissingOfAnFp8Pair) {
  const std::vector<Parameter> parameters = {wk_weights_proj(WeightForm::kBf16)};
  std::vector<TestTensor> all = stored_as("fp8_block", "indexer.wk", kHeadDim, kHidden).tensors;
  all.push_back(stored_as("bf16", "indexer.weights_proj", kHeads, kHidden).tensors[0]);
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"indexer.wk.weight", "missing_tensor indexer.wk.weight\norphan_scale indexer.wk.weight_scale_inv"},
      {"indexer.wk.weight_scale_inv", "missing_scale indexer.wk.weight"},
      {"indexer.weights_proj.weight", "missing_tensor indexer.weights_proj.weight"}};
  for (const auto& [missing, problems] : expected) {
    std::vector<TestTensor> left = all;
    ASSERT_EQ(std::erase_if(left, [&, name = missing](const TestTensor& t) { return t.name == name; }), 1U);
    EXPECT_EQ(summary(resolve(parameters, {}, catalog(left)).problems), problems);
  }
}

TEST_F(IndexerFormTest, AScaleOfWkBesideAFusedTensorIsAnOrphanWhateverThatIsStoredAs) {
  const std::vector<Parameter> parameters = {wk_weights_proj(WeightForm::kBf16)};
  const TestTensor scale = stored_as("fp8_block", "indexer.wk", kHeadDim, kHidden).tensors[1];
  for (const std::string form : {"bf16", "fp8_block", "nvfp4_modelopt"}) {
    std::vector<TestTensor> tensors =
        stored_as(form, "indexer.wk_weights_proj", kHeadDim + kHeads, kHidden).tensors;
    tensors.push_back(scale);
    EXPECT_EQ(summary(resolve(parameters, {}, catalog(tensors)).problems),
              "orphan_scale indexer.wk.weight_scale_inv");
  }
}

TEST_F(IndexerFormTest, AnFp8PairBesideAFusedTensorConflictsOnceAndNamesAllThree) {
  const std::vector<Parameter> parameters = {wk_weights_proj(WeightForm::kBf16)};
  std::vector<TestTensor> tensors = stored_as("fp8_block", "indexer.wk", kHeadDim, kHidden).tensors;
  for (const TestTensor& tensor : stored_as("bf16", "indexer.weights_proj", kHeads, kHidden).tensors)
    tensors.push_back(tensor);
  for (const TestTensor& tensor :
       stored_as("fp8_block", "indexer.wk_weights_proj", kHeadDim + kHeads, kHidden).tensors)
    tensors.push_back(tensor);
  const auto problems = resolve(parameters, {}, catalog(tensors)).problems;
  ASSERT_EQ(summary(problems), "conflicting_tensors indexer.wk.weight");
  for (const char* name :
       {"indexer.wk.weight", "indexer.weights_proj.weight", "indexer.wk_weights_proj.weight"})
    EXPECT_NE(problems[0].message.find(name), std::string::npos) << problems[0].message;
}

}  // namespace
}  // namespace fulgur
