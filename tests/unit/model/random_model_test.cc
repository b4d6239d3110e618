#include "model/random_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "checkpoint/dequantize.h"
#include "checkpoint/verify.h"
#include "model/inspection.h"

namespace fulgur {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(FULGUR_SOURCE_DIR) / "models/configs";

/// A published config at sizes of a test, but for what makes its family: ranks, groups, schedules.
RandomWeights small(const std::string& file, std::optional<TargetForm> form, uint64_t seed = 0) {
  RandomWeights wanted{.config = kConfigs / file, .changes = {.num_layers = 4}, .form = form, .seed = seed};
  const std::pair<const char*, const char*> sizes[] = {
      {"vocab_size", "256"},           {"hidden_size", "192"},       {"intermediate_size", "320"},
      {"moe_intermediate_size", "64"}, {"num_attention_heads", "2"}, {"num_key_value_heads", "2"},
      {"q_lora_rank", "96"},           {"kv_lora_rank", "64"},       {"n_routed_experts", "16"},
      {"eos_token_id", "1"},           {"index_n_heads", "2"},       {"index_topk", "16"},
      {"num_experts_per_tok", "4"}};
  for (const auto& [field, value] : sizes) wanted.changes.fields.push_back({field, value});
  return wanted;
}

class RandomModels : public testing::TestWithParam<std::tuple<const char*, TargetForm>> {
 protected:
  [[nodiscard]] RandomWeights wanted(uint64_t seed = 0) const {
    return small(std::get<0>(GetParam()), std::get<1>(GetParam()), seed);
  }
};

TEST_P(RandomModels, AreWholeCheckpointsWithTheMtpLayer) {
  const Inspection inspection = inspect_model(read_model_files(wanted()), Precision::kNative);
  ASSERT_TRUE(inspection.plan);
  EXPECT_TRUE(inspection.problems.empty()) << Error(inspection.problems).what();
  EXPECT_TRUE(inspection.plan->notices.empty());
  EXPECT_TRUE(inspection.plan->load.ignored.empty());
  EXPECT_TRUE(inspection.plan->weights->mtp.layer.experts.size() == 16);
  EXPECT_TRUE(verify(inspection.plan->load, *inspection.catalog, 2).empty());
  EXPECT_EQ(weight_bytes(*inspection.plan, *inspection.catalog, /*with_mtp=*/true).mapped, 0U);
}

TEST_P(RandomModels, TakeTheMemoryThatTheConfigForetells) {
  for (const Precision precision : {Precision::kNative, Precision::kFull}) {
    for (const bool mtp : {false, true}) {
      const LoadOptions options{.precision = precision, .mtp = mtp};
      const PlannedModel planned = plan_loading(read_model_files(wanted()), options);
      const WeightBytes bytes = weight_bytes(planned.plan, planned.catalog, mtp);
      EXPECT_EQ(random_weight_bytes(wanted(), precision, mtp).copied, bytes.copied);
      EXPECT_EQ(bytes.mapped, 0U);
      EXPECT_EQ(load(plan_loading(read_model_files(wanted()), options), 2).memory.copied_bytes, bytes.copied);
    }
  }
}

TEST_P(RandomModels, HaveTheSameBytesOnAnyNumberOfThreads) {
  const auto loaded = [&](uint64_t seed, int threads) {
    return load(plan_loading(read_model_files(wanted(seed)), {.precision = Precision::kNative}), threads);
  };
  const LoadedModel one = loaded(3, 1);
  const LoadedModel three = loaded(3, 3);
  const LoadedModel other = loaded(4, 3);
  bool differ = false;
  for (size_t i = 0; i < one.memory.weights.size(); ++i) {
    const Weight& a = one.memory.weights[i];
    const auto bytes = static_cast<size_t>(a.rows * row_bytes(a.form, a.cols));
    ASSERT_EQ(std::memcmp(a.data, three.memory.weights[i].data, bytes), 0);
    differ = differ || std::memcmp(a.data, other.memory.weights[i].data, bytes) != 0;
  }
  EXPECT_TRUE(differ);
}

TEST_P(RandomModels, HoldInMemoryWhatTheCatalogSaysTheirFilesWouldHold) {
  const PlannedModel planned = plan_loading(read_model_files(wanted()), {.precision = Precision::kNative});
  const LoadedWeights memory = execute(planned.plan.load, planned.plan.parameters, planned.catalog, 2);
  for (size_t i = 0; i < memory.weights.size(); ++i) {
    const PlannedSource& source = planned.plan.load.parameters[i].sources.front();
    if (source.steps.front() != StepKind::kDraw) continue;
    const CatalogEntry& entry = planned.catalog.entries[static_cast<size_t>(source.entry)];
    std::vector<std::byte> bytes(entry.bytes);
    planned.catalog.read(entry, 0, bytes);
    EXPECT_EQ(std::memcmp(bytes.data(), memory.weights[i].data, bytes.size()), 0) << entry.name;
  }
}

/// So that activations keep their size from layer to layer.
TEST_P(RandomModels, HaveMatricesWithADeviationOfOneOverTheRootOfTheirColumns) {
  const PlannedModel planned = plan_loading(read_model_files(wanted()), {.precision = Precision::kFull});
  const LoadedWeights memory = execute(planned.plan.load, planned.plan.parameters, planned.catalog, 2);
  for (size_t i = 0; i < memory.weights.size(); ++i) {
    const Weight& weight = memory.weights[i];
    const std::string& name = planned.plan.parameters[i].name;
    if (weight.rows == 1 || name.ends_with("uk") || name.ends_with("embed_tokens")) continue;
    std::vector<float> values(static_cast<size_t>(weight.rows * weight.cols));
    if (is_plain(weight.form)) {
      for (size_t v = 0; v < values.size(); ++v) {
        values[v] = weight.form == WeightForm::kF32 ? static_cast<const float*>(weight.data)[v]
                                                    : to_float(static_cast<const Bf16*>(weight.data)[v]);
      }
    } else {
      dequantize(weight, WeightForm::kF32, reinterpret_cast<std::byte*>(values.data()));
    }
    double squares = 0;
    for (const float value : values) squares += double{value} * double{value};
    const double deviation = std::sqrt(squares / static_cast<double>(values.size()));
    // Scales differ by up to a factor of three, and powers of two by a half from what they stand for.
    EXPECT_NEAR(deviation * std::sqrt(static_cast<double>(weight.cols)), 1, 0.45) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, RandomModels,
                         testing::Combine(testing::Values("deepseek-v3.2.json", "deepseek-r1.json",
                                                          "glm-5.json", "glm-5.2.json"),
                                          testing::ValuesIn(kTargetForms)));

TEST(RandomModel, TakesTheFormThatTheConfigDeclares) {
  const auto form_of = [](const std::string& file, std::vector<ConfigChanges::Field> fields = {}) {
    RandomWeights wanted = small(file, std::nullopt);
    for (auto& field : fields) wanted.changes.fields.push_back(field);
    return make_random_model(wanted).recipe;
  };
  EXPECT_EQ(form_of("glm-5.json").form, TargetForm::kBf16);
  EXPECT_EQ(form_of("deepseek-r1.json").form, TargetForm::kFp8Block);
  EXPECT_EQ(form_of("deepseek-r1.json").scales, BlockScales::kF32);
  EXPECT_EQ(form_of("deepseek-v3.2.json").scales, BlockScales::kF32Pow2) << "scale_fmt is ue8m0";
  EXPECT_EQ(form_of("glm-5.json",
                    {{"quantization_config", R"({"quant_method": "modelopt", "quant_algo": "NVFP4"})"}})
                .form,
            TargetForm::kNvfp4Modelopt);
  EXPECT_EQ(
      form_of("glm-5.json", {{"quantization_config",
                              R"({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"})"}})
          .form,
      TargetForm::kNvfp4Ct);
}

TEST(RandomModel, RefusesADeclaredFormThatItCannotDraw) {
  RandomWeights wanted = small("glm-5.json", std::nullopt);
  wanted.changes.fields.push_back(
      {"quantization_config", R"({"quant_method": "modelopt", "quant_algo": "FP8"})"});
  try {
    make_random_model(wanted);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.problems().front().tensor, "quantization_config");
    EXPECT_NE(error.problems().front().todo.find("--weights-form"), std::string::npos);
  }
  wanted.form = TargetForm::kNvfp4Ct;
  EXPECT_EQ(make_random_model(wanted).config.quantization->method, "compressed-tensors");
}

TEST(RandomModel, DeclaresNoQuantizationOfWeightsInBf16) {
  EXPECT_FALSE(make_random_model(small("deepseek-v3.2.json", TargetForm::kBf16)).config.quantization);
}

}  // namespace
}  // namespace fulgur
