#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "model/config.h"

namespace fulgur {
namespace {

constexpr auto kBad = ErrorKind::kBadConfig;
constexpr auto kUnsupported = ErrorKind::kUnsupported;

Json base_config(const std::string& family) {
  const std::filesystem::path data = std::filesystem::path(FULGUR_SOURCE_DIR) / "models/configs";
  return read_json(data / (family + ".json"), kBad);
}

std::vector<Problem> problems_of(const std::string& text) {
  try {
    parse_config(text, "config.json");
  } catch (const Error& error) {
    return error.problems();
  }
  return {};
}

/// One change to a good config and the one refusal that must come of it.
struct Case {
  std::string field;  // as named in the problem; "a.b" is field b of object a
  Json value;
  ErrorKind kind;
  std::string allowed;  // what the problem must say is allowed, in part
  std::string family = "deepseek-v3.2";
};

void set(Json& document, const std::string& field, const Json& value) {
  const size_t dot = field.find('.');
  if (dot == std::string::npos) {
    document[field] = value;
  } else {
    document[field.substr(0, dot)][field.substr(dot + 1)] = value;
  }
}

void expect_refused(const Case& c) {
  Json document = base_config(c.family);
  set(document, c.field, c.value);
  SCOPED_TRACE(c.family + ": " + c.field + " = " + c.value.dump());
  const std::vector<Problem> problems = problems_of(document.dump());
  ASSERT_EQ(problems.size(), 1U);
  const Problem& problem = problems[0];
  EXPECT_EQ(problem.kind, c.kind) << describe(problem);
  EXPECT_EQ(problem.file, "config.json");
  EXPECT_EQ(problem.tensor, c.field);
  EXPECT_NE(problem.message.find(c.field), std::string::npos) << problem.message;
  EXPECT_NE(problem.expected.find(c.allowed), std::string::npos) << problem.expected;
  EXPECT_FALSE(problem.found.empty());
  EXPECT_FALSE(problem.todo.empty());
}

TEST(ConfigRefusals, NameFieldAndRangeOfEverySize) {
  const std::vector<std::string> sizes = {"vocab_size",
                                          "hidden_size",
                                          "intermediate_size",
                                          "moe_intermediate_size",
                                          "num_attention_heads",
                                          "kv_lora_rank",
                                          "qk_nope_head_dim",
                                          "qk_rope_head_dim",
                                          "v_head_dim",
                                          "index_topk",
                                          "index_n_heads",
                                          "index_head_dim",
                                          "q_lora_rank",
                                          "num_key_value_heads",
                                          "qk_head_dim",
                                          "index_topk_freq",
                                          "max_position_embeddings",
                                          "rope_scaling.original_max_position_embeddings"};
  for (const std::string& field : sizes) {
    for (const Json& value : std::vector<Json>{0, -1, (1 << 24) + 1, INT64_MIN, UINT64_MAX, 1e30, 128.0, 1e3,
                                               64.5, true, "128", Json::array({128}), Json::object()}) {
      expect_refused({field, value, kBad, "an integer from 1 to 16777216"});
    }
  }
}

TEST(ConfigRefusals, NameFieldAndRangeOfEveryCount) {
  for (const Json& value : std::vector<Json>{0, -61, 1001, 61.0, "61", nullptr, false}) {
    expect_refused({"num_hidden_layers", value, kBad, "an integer from 1 to 1000"});
  }
  for (const std::string field : {"n_routed_experts", "num_experts_per_tok", "n_group", "topk_group"}) {
    for (const Json& value : std::vector<Json>{0, -8, 65537, 8.0, "8", nullptr, true}) {
      expect_refused({field, value, kBad, "an integer from 1 to 65536"});
    }
  }
  for (const Json& value : std::vector<Json>{-1, 65537, 1.0, "1", nullptr, true}) {
    expect_refused({"n_shared_experts", value, kBad, "an integer from 0 to 65536"});
  }
  for (const Json& value : std::vector<Json>{-1, 500, 1001, 3.0, "3", nullptr, true}) {
    expect_refused({"first_k_dense_replace", value, kBad, "an integer from 0 to "});
  }
  for (const Json& value : std::vector<Json>{0, -1, 1001, 1.0, "1", nullptr, Json{1, 1}}) {
    expect_refused({"moe_layer_freq", value, kBad, "an integer from 1 to 1000"});
  }
  for (const Json& value : std::vector<Json>{-1, 1001, 1.0, "1", nullptr, true}) {
    expect_refused({"num_nextn_predict_layers", value, kBad, "an integer from 0 to 1000"});
  }
  for (const Json& value : std::vector<Json>{-1, 1.0, "2", nullptr, (1 << 24) + 1}) {
    expect_refused({"index_skip_topk_offset", value, kBad, "an integer from 0 to 16777216"});
  }
}

TEST(ConfigRefusals, NameFieldAndRangeOfEveryNumber) {
  const Case cases[] = {
      {"rms_norm_eps", 0, kBad, "from 1e-30 to 1"},
      {"rms_norm_eps", -1e-6, kBad, "from 1e-30 to 1"},
      {"rms_norm_eps", 1e-300, kBad, "from 1e-30 to 1"},
      {"rms_norm_eps", 2, kBad, "from 1e-30 to 1"},
      {"rms_norm_eps", "1e-6", kBad, "a number"},
      {"rms_norm_eps", nullptr, kBad, "a number"},
      {"routed_scaling_factor", 0, kBad, "a number"},
      {"routed_scaling_factor", -2.5, kBad, "a number"},
      {"routed_scaling_factor", 1e30, kBad, "to 1000000"},
      {"routed_scaling_factor", true, kBad, "a number"},
      {"rope_theta", 1, kBad, "a number above 1"},
      {"rope_theta", 0, kBad, "a number above 1"},
      {"rope_theta", -10000, kBad, "a number above 1"},
      {"rope_theta", 1e300, kBad, "a number above 1"},
      {"rope_theta", "10000", kBad, "a number above 1"},
      {"rope_theta", nullptr, kBad, "a number above 1"},
      {"rope_scaling.rope_theta", 0.5, kBad, "a number above 1"},
      {"rope_scaling.factor", 0.5, kBad, "a number from 1"},
      {"rope_scaling.factor", -40, kBad, "a number from 1"},
      {"rope_scaling.factor", "40", kBad, "a number from 1"},
      {"rope_scaling.factor", nullptr, kBad, "a number from 1"},
      {"rope_scaling.beta_fast", 0, kBad, "a number above 0"},
      {"rope_scaling.beta_fast", "32", kBad, "a number above 0"},
      {"rope_scaling.beta_slow", -1, kBad, "a number above 0"},
      {"rope_scaling.beta_fast", 0.5, kBad, "at least beta_slow"},
      {"rope_scaling.mscale", -1, kBad, "a number from 0"},
      {"rope_scaling.mscale", "1", kBad, "a number from 0"},
      {"rope_scaling.mscale_all_dim", -1, kBad, "a number from 0"},
      {"rope_scaling.attention_factor", 0, kBad, "a number above 0"},
      {"rope_scaling.attention_factor", "x", kBad, "a number above 0"},
      {"rope_parameters.rope_theta", 1, kBad, "a number above 1", "glm-5"},
      {"rope_parameters.beta_slow", 0, kBad, "a number above 0", "glm-5"},
  };
  for (const Case& c : cases) expect_refused(c);
}

TEST(ConfigRefusals, NameEveryFlagThatIsNotTrueOrFalse) {
  for (const std::string field :
       {"norm_topk_prob", "tie_word_embeddings", "attention_bias", "rope_interleave",
        "indexer_rope_interleave", "index_share_for_mtp_iteration"}) {
    for (const Json& value : std::vector<Json>{0, 1, "true", nullptr, 0.0, Json::array()}) {
      expect_refused({field, value, kBad, "true or false"});
      expect_refused({field, value, kBad, "true or false", "glm-5"});
    }
  }
}

TEST(ConfigRefusals, NameKindsThatAreNotSupported) {
  const Case cases[] = {
      {"model_type", "deepseek_v2", kUnsupported, "deepseek_v32"},
      {"model_type", "", kUnsupported, "glm_moe_dsa"},
      {"model_type", 3, kBad, "deepseek_v3"},
      {"model_type", nullptr, kBad, "deepseek_v3"},
      {"scoring_func", "softmax", kUnsupported, "\"sigmoid\""},
      {"scoring_func", 1, kBad, "\"sigmoid\""},
      {"scoring_func", nullptr, kBad, "\"sigmoid\""},
      {"topk_method", "greedy", kUnsupported, "\"noaux_tc\""},
      {"topk_method", "group_limited_greedy", kUnsupported, "\"noaux_tc\""},
      {"topk_method", false, kBad, "\"noaux_tc\""},
      {"hidden_act", "gelu", kUnsupported, "\"silu\""},
      {"hidden_act", 0, kBad, "\"silu\""},
      {"attention_bias", true, kUnsupported, "false"},
      {"num_nextn_predict_layers", 2, kUnsupported, "0 or 1"},
      {"rope_scaling.type", "linear", kUnsupported, "\"default\" or \"yarn\""},
      {"rope_scaling.type", 5, kBad, "\"default\" or \"yarn\""},
      {"rope_scaling.rope_type", "dynamic", kUnsupported, "\"default\" or \"yarn\""},
      {"rope_parameters.rope_type", "llama3", kUnsupported, "\"default\" or \"yarn\"", "glm-5"},
      {"quantization_config.quant_method", "awq", kUnsupported, "\"fp8\" or \"modelopt\""},
      {"quantization_config.quant_method", 8, kBad, "\"fp8\""},
      {"quantization_config.quant_method", nullptr, kBad, "\"fp8\""},
      {"quantization_config.fmt", "e5m2", kUnsupported, "\"e4m3\""},
      {"quantization_config.fmt", 4, kBad, "\"e4m3\""},
      {"quantization_config.quant_algo", "W4A16_AWQ", kUnsupported, "\"NVFP4\""},
      {"quantization_config.format", "pack-quantized", kUnsupported, "\"nvfp4-pack-quantized\""},
      {"quantization_config.scale_fmt", "fp32", kUnsupported, "\"ue8m0\""},
      {"quantization_config.weight_block_size", {64, 64}, kUnsupported, "[128,128]"},
      {"quantization_config.weight_block_size", {128}, kBad, "two positive integers"},
      {"quantization_config.weight_block_size", {128, 0}, kBad, "two positive integers"},
      {"quantization_config.weight_block_size", 128, kBad, "two positive integers"},
      {"dtype", "int8", kBad, "\"bfloat16\""},
      {"torch_dtype", "bf16", kBad, "\"bfloat16\""},
      {"torch_dtype", 16, kBad, "\"bfloat16\""},
      {"rope_scaling", 5, kBad, "an object"},
      {"rope_scaling", "yarn", kBad, "an object"},
      {"rope_parameters", Json::array(), kBad, "an object"},
      {"quantization_config", "fp8", kBad, "an object"},
  };
  for (const Case& c : cases) expect_refused(c);
}

TEST(ConfigRefusals, NameContradictions) {
  const Case cases[] = {
      {"n_group", 3, kBad, "a divisor of n_routed_experts (256)"},
      {"n_group", 256, kBad, "at most n_routed_experts / 2"},
      {"topk_group", 9, kBad, "at most n_group (8)"},
      {"num_experts_per_tok", 129, kBad, "at most the 128 experts of topk_group (4) groups"},
      {"qk_rope_head_dim", 63, kBad, "even"},
      {"index_head_dim", 32, kBad, "at least qk_rope_head_dim (64)"},
      {"q_lora_rank", nullptr, kBad, "an integer from 1"},
      {"num_key_value_heads", 64, kBad, "128, as num_attention_heads"},
      {"qk_head_dim", 128, kBad, "192, as qk_nope_head_dim + qk_rope_head_dim"},
      {"indexer_types", {"full"}, kBad, "61 entries"},
      {"indexer_types", Json::array(), kBad, "61 entries"},
      {"indexer_types", {"half"}, kBad, "\"full\" or \"shared\""},
      {"indexer_types", "full", kBad, "a list of strings"},
      {"indexer_types", {1, 0}, kBad, "a list of strings"},
      {"indexer_types", std::vector<std::string>(61, "shared"), kBad, "layer 0 full"},
      {"index_topk_pattern", "FS", kBad, "61 entries"},
      {"index_topk_pattern", "FX", kBad, "\"F\" or \"S\""},
      {"index_topk_pattern", "F\u00e9", kBad, "\"F\" or \"S\""},
      {"index_topk_pattern", 7, kBad, "a string or list"},
      {"index_topk_pattern", std::string(61, 'S'), kBad, "layer 0 full"},
      {"mlp_layer_types", {"dense"}, kBad, "61 entries"},
      {"mlp_layer_types", {"moe"}, kBad, "\"sparse\" or \"dense\""},
      {"mlp_layer_types", true, kBad, "a list of strings"},
      {"bos_token_id", 129280, kBad, "an integer from 0 to 129279"},
      {"bos_token_id", -1, kBad, "an integer from 0 to 129279"},
      {"bos_token_id", "0", kBad, "an integer"},
      {"eos_token_id", 129280, kBad, "an integer from 0 to 129279"},
      {"eos_token_id", {1, -1}, kBad, "an integer from 0 to 129279"},
      {"eos_token_id", 1.0, kBad, "an integer"},
      {"eos_token_id", Json::object(), kBad, "an integer"},
      {"architectures", {"LlamaForCausalLM"}, kBad, "DeepseekV32ForCausalLM"},
      {"architectures", Json::array(), kBad, "DeepseekV32ForCausalLM"},
      {"architectures", "DeepseekV32ForCausalLM", kBad, "a list of strings"},
      {"rope_scaling.rope_type", "default", kBad, "the same as type"},
  };
  for (const Case& c : cases) expect_refused(c);
  Json offset = base_config("glm-5");
  offset["index_topk_freq"] = 4;
  offset["index_skip_topk_offset"] = 0;  // max(0 - 0 + 1, 0) mod 4 = 1
  const auto problems = problems_of(offset.dump());
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0].tensor, "index_skip_topk_offset");
}

TEST(ConfigRefusals, NameProductsThatNoKernelCouldCount) {
  Json document = base_config("deepseek-v3.2");
  document["num_attention_heads"] = 1 << 24;
  document["num_key_value_heads"] = 1 << 24;
  document["index_n_heads"] = 1 << 24;
  document["n_shared_experts"] = 65536;
  document["moe_intermediate_size"] = 1 << 24;
  std::vector<std::string> fields;
  for (const Problem& problem : problems_of(document.dump())) {
    EXPECT_EQ(problem.kind, kBad);
    EXPECT_NE(problem.expected.find("at most 2147483647"), std::string::npos) << problem.expected;
    fields.push_back(problem.tensor);
  }
  EXPECT_EQ(fields, (std::vector<std::string>{"num_attention_heads", "num_attention_heads",
                                              "num_attention_heads", "index_n_heads", "n_shared_experts"}));
}

TEST(ConfigRefusals, NameEveryRequiredFieldThatIsMissing) {
  for (const std::string field :
       {"model_type", "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
        "num_hidden_layers", "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
        "v_head_dim", "index_topk", "index_n_heads", "index_head_dim", "n_routed_experts",
        "num_experts_per_tok", "first_k_dense_replace", "max_position_embeddings", "q_lora_rank"}) {
    Json document = base_config("deepseek-v3.2");
    document.erase(field);
    const auto problems = problems_of(document.dump());
    ASSERT_EQ(problems.size(), 1U) << field;
    EXPECT_EQ(problems[0].kind, kBad);
    EXPECT_EQ(problems[0].tensor, field);
    EXPECT_NE(problems[0].message.find("missing"), std::string::npos) << problems[0].message;
  }
  for (const std::string field : {"factor", "original_max_position_embeddings", "type"}) {
    Json document = base_config("deepseek-v3.2");
    document["rope_scaling"].erase(field);
    const auto problems = problems_of(document.dump());
    ASSERT_EQ(problems.size(), 1U) << field;
    EXPECT_EQ(problems[0].tensor, "rope_scaling." + (field == "type" ? "rope_type" : field));
  }
}

TEST(ConfigRefusals, ComeForRopeObjectsThatDontSayTheirType) {
  for (const std::string field : {"rope_scaling", "rope_parameters"}) {
    for (const Json& object :
         {Json{{"a", 1}}, Json{{"factor", 40}}, Json{{"beta_fast", 32}, {"rope_theta", 1e4}}}) {
      Json document = base_config("deepseek-v3.2");
      document.erase("rope_scaling");
      document[field] = object;
      const auto problems = problems_of(document.dump());
      ASSERT_EQ(problems.size(), 1U) << field << object;
      EXPECT_EQ(problems[0].kind, kBad);
      EXPECT_EQ(problems[0].tensor, field + ".rope_type");
    }
  }
}

TEST(ConfigRefusals, ComeForFieldsThatTheModelDoesNotUse) {
  for (const Case& c :
       {Case{"index_topk", 0, kBad, "an integer", "deepseek-r1"},
        Case{"index_n_heads", "64", kBad, "an integer", "deepseek-r1"},
        Case{"index_head_dim", nullptr, kBad, "an integer", "deepseek-r1"},
        Case{"indexer_types", {"some"}, kBad, "\"full\"", "deepseek-r1"},
        Case{"indexer_types", {"full"}, kBad, "61 entries", "deepseek-r1"},
        Case{"indexer_types", std::vector<std::string>(61, "shared"), kBad, "layer 0 full", "deepseek-r1"},
        Case{"index_topk_pattern", "Q", kBad, "\"F\"", "deepseek-r1"},
        Case{"index_topk_pattern", "FF", kBad, "61 entries", "deepseek-r1"},
        Case{"indexer_rope_interleave", 1, kBad, "true or false", "deepseek-r1"},
        Case{"rope_theta", -5, kBad, "a number above 1", "glm-5"}}) {
    expect_refused(c);
  }
  Json dense = base_config("deepseek-r1");
  dense["index_topk"] = 2048;
  dense["index_head_dim"] = 8;  // below dr, but there is no indexer
  EXPECT_TRUE(problems_of(dense.dump()).empty());
}

TEST(ConfigRefusals, ComeAllTogether) {
  Json document = base_config("deepseek-v3.2");
  document["vocab_size"] = -1;
  document["hidden_act"] = "relu";
  document["n_group"] = 7;
  document["rope_scaling"]["factor"] = 0;
  document.erase("v_head_dim");
  std::vector<std::string> fields;
  for (const Problem& problem : problems_of(document.dump())) fields.push_back(problem.tensor);
  std::sort(fields.begin(), fields.end());
  EXPECT_EQ(fields, (std::vector<std::string>{"hidden_act", "n_group", "rope_scaling.factor", "v_head_dim",
                                              "vocab_size"}));
}

TEST(ConfigRefusals, SayWhatIsWrongInASentence) {
  Json document = base_config("deepseek-v3.2");
  document["hidden_size"] = 0;
  const auto problems = problems_of(document.dump());
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(describe(problems[0]),
            "config.json: hidden_size must be an integer from 1 to 16777216, not 0.\n"
            "  expected  an integer from 1 to 16777216\n"
            "  found     0\n"
            "  to do     correct the field, or use the config.json that belongs to this checkpoint");
}

/// Files that are no JSON object of a config at all.
TEST(ConfigRefusals, ComeForDamagedFilesWithoutACrash) {
  const std::string bomb = std::string(1000000, '[');
  const std::string closed_bomb =
      R"({"model_type": )" + std::string(200000, '[') + std::string(200000, ']') + "}";
  const std::vector<std::string> texts = {
      "",
      " ",
      "{",
      "[]",
      "3",
      "null",
      "\"deepseek_v3\"",
      bomb,
      closed_bomb,
      R"({"model_type": "deepseek_v3"} x)",
      R"({"model_type": "deepseek_v3", "model_type": "deepseek_v3"})",
      R"({"a": {"b": 1, "b": 2}})",
      "{\"model_type\": \"\xff\xfe\"}",
      "{\"\xc0\x80\": 1}",
      std::string("{\"a\": 1}\0", 9),
      R"({"rms_norm_eps": NaN})",
      R"({"rms_norm_eps": Infinity})",
      R"({"rms_norm_eps": 1e999})",
      R"({"vocab_size": 0x10})",
      R"({"vocab_size": 01})",
      R"({'model_type': 'deepseek_v3'})",
      "{\"model_type\": \"deepseek_v3\", // comment\n}",
  };
  for (const std::string& text : texts) {
    const auto problems = problems_of(text);
    ASSERT_EQ(problems.size(), 1U) << text.substr(0, 60);
    EXPECT_EQ(problems[0].kind, kBad);
    EXPECT_EQ(problems[0].file, "config.json");
    EXPECT_LT(describe(problems[0]).size(), 400U) << describe(problems[0]);
  }
}

/// Whatever becomes of a file's bytes: a config that is in range, or an Error; anything else escapes and
/// fails.
TEST(ConfigRefusals, AreTheWorstThatDamagedBytesCanCause) {
  const std::string good = base_config("glm-5.2").dump();
  int refused = 0;
  for (unsigned seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    std::minstd_rand random(seed + 1);
    std::string text = good;
    for (unsigned i = 0; i <= seed % 4; ++i) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        default:
          text.insert(at, good.substr(random() % good.size(), random() % 16));
      }
    }
    try {
      const Config config = parse_config(text, "config.json");
      EXPECT_GE(config.num_hidden_layers, 1);
      EXPECT_LE(config.num_hidden_layers, 1000);
      EXPECT_EQ(static_cast<int64_t>(config.moe_layer.size()), config.num_hidden_layers);
      EXPECT_EQ(config.full_indexer.size(), config.sparse() ? config.moe_layer.size() : 0U);
    } catch (const Error& error) {
      EXPECT_FALSE(error.problems().empty());
      ++refused;
    }
  }
  EXPECT_GT(refused, 1500);
  EXPECT_LT(refused, 3000);
}

TEST(ConfigRefusals, PlaceASyntaxErrorByLineAndColumn) {
  const auto problems = problems_of("{\n  \"a\": 1,\n  \"b\": nil\n}");
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].message.find("line 3, column 9"), std::string::npos) << problems[0].message;
}

TEST(ConfigRefusals, StayShortForAHugeValue) {
  Json document = base_config("deepseek-v3.2");
  document["hidden_act"] = std::string(1 << 20, 'x');
  const auto problems = problems_of(document.dump());
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_LT(describe(problems[0]).size(), 400U);
}

}  // namespace
}  // namespace fulgur
