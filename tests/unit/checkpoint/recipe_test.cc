// Which modules a release quantizes, and as which tensors (docs/spec/checkpoints.md, section 3).

#include "checkpoint/recipe.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace fulgur {
namespace {

constexpr const char* kLayer = "model.layers.3.";

Part matrix(std::string_view name, int64_t rows = 160, int64_t cols = 288) {
  return {fmt::format("{}{}.weight", kLayer, name), {{rows, "rows"}, {cols, "cols"}}};
}

std::string text(const StoredPart& part) {
  std::string lines;
  for (const StoredTensor& tensor : part.tensors) {
    lines += fmt::format("{} {} [{}]\n", tensor.name.substr(tensor.name.rfind('.') + 1), name(tensor.dtype),
                         fmt::join(tensor.shape, ", "));
  }
  return lines;
}

std::string form_label(TargetForm form, std::string_view module, bool quantizable = true) {
  return std::string(recipe_form({.form = form}, matrix(module), quantizable).label);
}

TEST(Recipe, OfFp8QuantizesEveryProjectionButTheSeparateWeightsProj) {
  for (const char* module : {"self_attn.q_a_proj", "self_attn.kv_b_proj", "self_attn.indexer.wq_b",
                             "self_attn.indexer.wk", "self_attn.indexer.wk_weights_proj", "mlp.down_proj",
                             "mlp.experts.7.up_proj", "mlp.shared_experts.gate_proj"}) {
    EXPECT_EQ(form_label(TargetForm::kFp8Block, module), "fp8") << module;
  }
  EXPECT_EQ(form_label(TargetForm::kFp8Block, "self_attn.indexer.weights_proj"), "bf16");
  for (const char* module : {"mlp.gate", "eh_proj", "embed_tokens", "shared_head.head"})
    EXPECT_EQ(form_label(TargetForm::kFp8Block, module, false), "bf16") << module;
}

TEST(Recipe, OfNvfp4QuantizesTheMlpsThatTheReleaseDoesInEitherSpelling) {
  for (const TargetForm form : {TargetForm::kNvfp4Modelopt, TargetForm::kNvfp4Ct}) {
    for (const Fp4Modules fp4 : {Fp4Modules::kRoutedExperts, Fp4Modules::kExperts, Fp4Modules::kMlps}) {
      const auto label = [&](std::string_view module, bool quantizable = true) {
        return recipe_form({.form = form, .fp4 = fp4}, matrix(module), quantizable).label;
      };
      EXPECT_EQ(label("mlp.experts.7.up_proj"), name(form));
      EXPECT_EQ(label("mlp.shared_experts.up_proj"), fp4 == Fp4Modules::kRoutedExperts ? "bf16" : name(form));
      EXPECT_EQ(label("mlp.down_proj"), fp4 == Fp4Modules::kMlps ? name(form) : "bf16");
      EXPECT_EQ(label("mlp.gate", false), "bf16");
      for (const char* module : {"self_attn.q_a_proj", "self_attn.kv_b_proj", "self_attn.indexer.wk"})
        EXPECT_EQ(label(module), "bf16") << module;
    }
  }
}

TEST(Recipe, StoresAnNvfp4ModuleWhoseGroupsDontFillItsRowsAsBf16) {
  EXPECT_EQ(
      text(stored_part({.form = TargetForm::kNvfp4Modelopt}, matrix("mlp.experts.0.up_proj", 3, 24), true)),
      "weight BF16 [3, 24]\n");
}

TEST(Recipe, NamesTheTensorsOfEachForm) {
  const Part expert = matrix("mlp.experts.0.up_proj");
  const auto stored = [&](TargetForm form, BlockScales scales) {
    return text(stored_part({.form = form, .scales = scales}, expert, true));
  };
  EXPECT_EQ(stored(TargetForm::kBf16, BlockScales::kF32), "weight BF16 [160, 288]\n");
  EXPECT_EQ(stored(TargetForm::kFp8Block, BlockScales::kF32Pow2),
            "weight F8_E4M3 [160, 288]\nweight_scale_inv F32 [2, 3]\n");
  EXPECT_EQ(stored(TargetForm::kFp8Block, BlockScales::kE8m0),
            "weight F8_E4M3 [160, 288]\nweight_scale_inv F8_E8M0 [2, 3]\n");
  EXPECT_EQ(stored(TargetForm::kNvfp4Modelopt, BlockScales::kF32),
            "weight U8 [160, 144]\nweight_scale F8_E4M3 [160, 18]\nweight_scale_2 F32 []\n");
  EXPECT_EQ(stored(TargetForm::kNvfp4Ct, BlockScales::kF32),
            "weight_packed U8 [160, 144]\nweight_scale F8_E4M3 [160, 18]\nweight_global_scale F32 [1]\n");
}

TEST(Recipe, KeepsVectorsPlainAndTheCorrectionBiasF32) {
  const Recipe recipe{.form = TargetForm::kFp8Block};
  EXPECT_EQ(text(stored_part(recipe, {"model.norm.weight", {{7, "hidden_size"}}}, false)),
            "weight BF16 [7]\n");
  EXPECT_EQ(text(stored_part(recipe, {"model.layers.3.mlp.gate.e_score_correction_bias", {{7, ""}}}, false)),
            "e_score_correction_bias F32 [7]\n");
}

TEST(Recipe, SaysWhatConfigsDeclare) {
  const std::vector<std::string> plain = {"lm_head", "model.embed_tokens"};
  EXPECT_EQ(quantization_config_text({}, plain, false), "");
  EXPECT_EQ(hf_quant_config_text({}, plain), "");
  const std::string fp8 =
      quantization_config_text({.form = TargetForm::kFp8Block, .scales = BlockScales::kE8m0}, plain, false);
  EXPECT_NE(fp8.find("\"scale_fmt\": \"ue8m0\""), std::string::npos) << fp8;
  EXPECT_NE(fp8.find("\"lm_head\""), std::string::npos) << fp8;
  EXPECT_EQ(hf_quant_config_text({.form = TargetForm::kFp8Block}, plain), "");
  EXPECT_NE(hf_quant_config_text({.form = TargetForm::kNvfp4Modelopt}, plain).find("\"NVFP4\""),
            std::string::npos);
  EXPECT_EQ(hf_quant_config_text({.form = TargetForm::kNvfp4Ct}, plain), "");
}

}  // namespace
}  // namespace fulgur
