#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/config.h"
#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

const std::filesystem::path kSource = FULGUR_SOURCE_DIR;

/// A good config.json with this quantization_config; none for null.
std::string config_with(const Json& quantization) {
  Json document = read_json(kSource / "models/configs/glm-5.json", ErrorKind::kBadConfig);
  document["quantization_config"] = quantization;
  return document.dump();
}

Json group(const Json& weights) { return {{"group_0", {{"weights", weights}, {"targets", {"Linear"}}}}}; }

/// Which scales of FP8 weights are then right: 'b' blocks, 'r' rows, 't' tensors, 'u' U8 for E8M0.
std::string scales_of(const std::optional<Quantization>& quantization) {
  if (!quantization) return "none declared";
  const Fp8Scheme& fp8 = quantization->fp8;
  return std::string(fp8.block_scales ? "b" : "") + (fp8.row_scales ? "r" : "") +
         (fp8.tensor_scales ? "t" : "") + (fp8.u8_scales ? "u" : "");
}

TEST(Quantization, SaysWhichScalesFp8WeightsMayHave) {
  struct Case {
    Json quantization;
    std::string scales;
  };
  const Json fp8 = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"activation_scheme", "dynamic"}};
  const auto with = [](Json object, const std::string& field, const Json& value) {
    object[field] = value;
    return object;
  };
  const Json floats = {{"quant_method", "compressed-tensors"}, {"format", "float-quantized"}};
  const auto strategy = [&](const Json& name) {
    return with(floats, "config_groups", group({{"num_bits", 8}, {"type", "float"}, {"strategy", name}}));
  };
  const Json packed = {{"quant_method", "compressed-tensors"}, {"format", "nvfp4-pack-quantized"}};
  const Case cases[] = {
      {nullptr, "none declared"},
      {fp8, "b"},
      {with(fp8, "weight_block_size", {128, 128}), "b"},
      {with(fp8, "scale_fmt", "ue8m0"), "bu"},
      {with(fp8, "modules_to_not_convert", {"model.layers.0.self_attn.indexers_proj"}), "b"},
      {floats, "rt"},
      {strategy("channel"), "r"},
      {strategy("tensor"), "t"},
      {strategy("block"), "b"},
      {strategy(nullptr), "rt"},
      {with(strategy("tensor"), "weight_block_size", {128, 128}), "b"},
      {with(strategy("channel"), "config_groups",
            {{"group_0", {{"weights", {{"num_bits", 8}, {"strategy", "channel"}}}}},
             {"group_1",
              {{"weights", {{"num_bits", 8}, {"strategy", "block"}, {"block_structure", {128, 128}}}}}},
             {"group_2", {{"weights", nullptr}}}}),
       "br"},
      {packed, "b"},
      {with(packed, "config_groups",
            group({{"num_bits", 4},
                   {"type", "float"},
                   {"group_size", 16},
                   {"strategy", "tensor_group"},
                   {"block_structure", nullptr}})),
       "b"},
      {{{"quant_method", "modelopt"},
        {"quant_algo", "NVFP4"},
        {"config_groups",
         group({{"num_bits", 4}, {"type", "float"}, {"group_size", 16}, {"dynamic", false}})}},
       "b"},
      {{{"quant_method", "modelopt"}, {"quant_algo", "FP8"}, {"ignore", {"lm_head"}}}, "t"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.quantization.dump());
    EXPECT_EQ(scales_of(parse_config(config_with(c.quantization), "config.json").quantization), c.scales);
  }
}

TEST(Quantization, RefusesFieldsByNameValueAndWhatIsAllowed) {
  struct Case {
    std::string field;  // below quantization_config
    Json quantization;
    ErrorKind kind;
    std::string allowed;
  };
  constexpr auto kBad = ErrorKind::kBadConfig;
  constexpr auto kUnsupported = ErrorKind::kUnsupported;
  const auto ct = [](const Json& weights) {
    return Json{{"quant_method", "compressed-tensors"}, {"config_groups", group(weights)}};
  };
  const std::string weights = "config_groups.group_0.weights.";
  const Case cases[] = {
      {"quant_method", Json::object(), kBad, "\"fp8\""},
      {"quant_method", {{"quant_method", "gptq"}}, kUnsupported, "\"compressed-tensors\""},
      {"quant_algo",
       {{"quant_method", "modelopt"}, {"quant_algo", "MIXED_PRECISION"}},
       kUnsupported,
       "\"NVFP4\""},
      {"format",
       {{"quant_method", "compressed-tensors"}, {"format", "int-quantized"}},
       kUnsupported,
       "\"float-quantized\""},
      {"activation_scheme", {{"quant_method", "fp8"}, {"activation_scheme", 3}}, kBad, "\"dynamic\""},
      {"modules_to_not_convert",
       {{"quant_method", "fp8"}, {"modules_to_not_convert", "lm_head"}},
       kBad,
       "a list of strings"},
      {"ignore", {{"quant_method", "modelopt"}, {"ignore", {1}}}, kBad, "a list of strings"},
      {"config_groups", {{"quant_method", "modelopt"}, {"config_groups", 3}}, kBad, "an object"},
      {"config_groups.group_0",
       {{"quant_method", "modelopt"}, {"config_groups", {{"group_0", "x"}}}},
       kBad,
       "an object"},
      {weights.substr(0, weights.size() - 1), ct("float"), kBad, "an object"},
      {weights + "num_bits", ct({{"num_bits", 6}}), kUnsupported, "4 or 8"},
      {weights + "num_bits", ct({{"num_bits", "8"}}), kBad, "an integer"},
      {weights + "type", ct({{"num_bits", 8}, {"type", "int"}}), kUnsupported, "\"float\""},
      {weights + "group_size", ct({{"num_bits", 4}, {"group_size", 32}}), kUnsupported, "16"},
      {"group_size",
       {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}, {"group_size", 32}},
       kUnsupported,
       "16"},
      {weights + "strategy", ct({{"num_bits", 8}, {"strategy", "group"}}), kUnsupported, "\"channel\""},
      {weights + "strategy", ct({{"num_bits", 4}, {"strategy", "channel"}}), kUnsupported,
       "\"tensor_group\""},
      {weights + "block_structure",
       ct({{"num_bits", 8}, {"strategy", "block"}, {"block_structure", {64, 128}}}), kUnsupported,
       "[128,128]"},
      {weights + "block_structure",
       ct({{"num_bits", 8}, {"strategy", "block"}, {"block_structure", "128x128"}}), kBad,
       "two positive integers"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.quantization.dump());
    const auto problems = problems_of([&] { parse_config(config_with(c.quantization), "config.json"); });
    ASSERT_EQ(problems.size(), 1U);
    EXPECT_EQ(problems[0].kind, c.kind);
    EXPECT_EQ(problems[0].tensor, "quantization_config." + c.field);
    EXPECT_NE(problems[0].expected.find(c.allowed), std::string::npos) << problems[0].expected;
  }
}

/// A folder with a config.json and modelopt's file beside it.
class ModeloptFile : public ::testing::Test {
 protected:
  Config read(const Json& in_config, const std::string& in_file) {
    write_bytes(folder_ / "config.json", config_with(in_config));
    write_bytes(folder_ / "hf_quant_config.json", in_file);
    return read_config(folder_.path());
  }
  static std::string file(const Json& algorithm) {
    return Json{
        {"producer", {{"name", "modelopt"}}},
        {"quantization",
         {{"quant_algo", algorithm}, {"kv_cache_quant_algo", "FP8"}, {"exclude_modules", {"lm_head"}}}}}
        .dump();
  }

  TemporaryFolder folder_;
};

TEST_F(ModeloptFile, SpeaksWhereTheConfigIsSilent) {
  EXPECT_EQ(scales_of(read(nullptr, file("NVFP4")).quantization), "b");
  EXPECT_EQ(scales_of(read(nullptr, file("FP8")).quantization), "t");
  EXPECT_EQ(scales_of(read(nullptr, file(nullptr)).quantization), "b");
  EXPECT_EQ(scales_of(read({{"quant_method", "modelopt"}}, file("FP8")).quantization), "t");
  EXPECT_EQ(read(nullptr, file("NVFP4")).quantization->algorithm, "NVFP4");
  EXPECT_EQ(read(nullptr, file("NVFP4")).quantization->method, "modelopt");
}

TEST_F(ModeloptFile, MayRepeatTheConfigButNotContradictIt) {
  const Json modelopt = {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}};
  EXPECT_EQ(scales_of(read(modelopt, file("NVFP4")).quantization), "b");
  const auto problems = problems_of([&] { read(modelopt, file("FP8")); });
  ASSERT_EQ(summary(problems), "bad_config quantization.quant_algo");
  EXPECT_EQ(problems[0].file, "hf_quant_config.json");
  EXPECT_NE(problems[0].message.find("NVFP4"), std::string::npos);
}

TEST_F(ModeloptFile, IsCheckedFieldByField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "bad_config"},
      {"{}", "bad_config quantization"},
      {R"({"quantization": 4})", "bad_config quantization"},
      {R"({"quantization": {}})", "bad_config quantization.quant_algo"},
      {file("W4A8_AWQ"), "unsupported quantization.quant_algo"},
      {file(4), "bad_config quantization.quant_algo"},
      {R"({"quantization": {"quant_algo": "NVFP4", "group_size": 32}})",
       "unsupported quantization.group_size"},
      {R"({"quantization": {"quant_algo": "NVFP4", "group_size": "16"}})",
       "bad_config quantization.group_size"},
      {R"({"quantization": {"quant_algo": "NVFP4", "exclude_modules": "lm_head"}})",
       "bad_config quantization.exclude_modules"},
  };
  for (const auto& [text, expected] : cases) {
    SCOPED_TRACE(text);
    const auto problems = problems_of([&, in_file = text] { read(nullptr, in_file); });
    EXPECT_EQ(summary(problems), expected);
    for (const Problem& problem : problems) EXPECT_EQ(problem.file, "hf_quant_config.json");
  }
}

}  // namespace
}  // namespace fulgur
