#include "model/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/json.h"

namespace fulgur {
namespace {

using std::filesystem::path;

const path kSource = FULGUR_SOURCE_DIR;

Json read_data(const std::string& file) {
  return read_json(kSource / "models/configs" / file, ErrorKind::kBadConfig);
}

Config parse(const Json& document) { return parse_config(document.dump(), "config.json"); }

std::vector<int> full_layers(const Config& config) {
  std::vector<int> layers;
  for (size_t i = 0; i < config.full_indexer.size(); ++i) {
    if (config.full_indexer[i]) layers.push_back(static_cast<int>(i));
  }
  return layers;
}

std::vector<int> moe_layers(const Config& config) {
  std::vector<int> layers;
  for (size_t i = 0; i < config.moe_layer.size(); ++i) {
    if (config.moe_layer[i]) layers.push_back(static_cast<int>(i));
  }
  return layers;
}

TEST(Config, ReadsDeepseekV3) {
  const Config c = parse(read_data("deepseek-r1.json"));
  EXPECT_EQ(c.model_type, ModelType::kDeepseekV3);
  EXPECT_EQ(c.vocab_size, 129280);
  EXPECT_EQ(c.hidden_size, 7168);
  EXPECT_EQ(c.intermediate_size, 18432);
  EXPECT_EQ(c.moe_intermediate_size, 2048);
  EXPECT_EQ(c.num_hidden_layers, 61);
  EXPECT_EQ(c.num_attention_heads, 128);
  EXPECT_EQ(c.q_lora_rank, 1536);
  EXPECT_EQ(c.kv_lora_rank, 512);
  EXPECT_EQ(c.qk_nope_head_dim, 128);
  EXPECT_EQ(c.qk_rope_head_dim, 64);
  EXPECT_EQ(c.v_head_dim, 128);
  EXPECT_FALSE(c.sparse());
  EXPECT_EQ(c.index_n_heads, 0);
  EXPECT_EQ(c.index_head_dim, 0);
  EXPECT_TRUE(c.full_indexer.empty());
  EXPECT_EQ(c.n_routed_experts, 256);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.num_experts_per_tok, 8);
  EXPECT_EQ(c.n_group, 8);
  EXPECT_EQ(c.topk_group, 4);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(moe_layers(c).size(), 58U);
  EXPECT_EQ(moe_layers(c).front(), 3);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.max_position_embeddings, 163840);
  EXPECT_EQ(c.rope.type, RopeConfig::Type::kYarn);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_EQ(c.rope.factor, 40);
  EXPECT_EQ(c.rope.original_max_position_embeddings, 4096);
  EXPECT_EQ(c.rope.beta_fast, 32);
  EXPECT_EQ(c.rope.beta_slow, 1);
  EXPECT_EQ(c.rope.mscale, 1);
  EXPECT_EQ(c.rope.mscale_all_dim, 1);
  EXPECT_FALSE(c.rope.attention_factor);
  EXPECT_TRUE(c.rope_interleave);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_EQ(c.eos_token_ids, std::vector<int64_t>{1});
}

TEST(Config, ReadsDeepseekV32) {
  const Config c = parse(read_data("deepseek-v3.2.json"));
  EXPECT_EQ(c.model_type, ModelType::kDeepseekV32);
  EXPECT_TRUE(c.sparse());
  EXPECT_EQ(c.index_topk, 2048);
  EXPECT_EQ(c.index_n_heads, 64);
  EXPECT_EQ(c.index_head_dim, 128);
  EXPECT_FALSE(c.indexer_rope_interleave);
  EXPECT_FALSE(c.index_share_for_mtp_iteration);
  EXPECT_EQ(full_layers(c).size(), 61U);
}

TEST(Config, ReadsGlm5) {
  const Config c = parse(read_data("glm-5.json"));
  EXPECT_EQ(c.model_type, ModelType::kGlmMoeDsa);
  EXPECT_EQ(c.hidden_size, 6144);
  EXPECT_EQ(c.num_hidden_layers, 78);
  EXPECT_EQ(c.index_n_heads, 32);
  EXPECT_TRUE(c.indexer_rope_interleave);
  EXPECT_EQ(full_layers(c).size(), 78U);
  EXPECT_EQ(c.n_group, 1);
  EXPECT_EQ(c.topk_group, 1);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_EQ(c.rope.type, RopeConfig::Type::kDefault);
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_FALSE(c.bos_token_id);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int64_t>{154820, 154827, 154829}));
}

TEST(Config, ReadsGlm52) {
  const Config c = parse(read_data("glm-5.2.json"));
  EXPECT_EQ(full_layers(c), (std::vector<int>{0,  1,  2,  6,  10, 14, 18, 22, 26, 30, 34,
                                              38, 42, 46, 50, 54, 58, 62, 66, 70, 74}));
  EXPECT_TRUE(c.index_share_for_mtp_iteration);
  EXPECT_EQ(c.max_position_embeddings, 1048576);
  EXPECT_EQ(c.rope.theta, 8e6);
}

TEST(Config, ReadsEveryGoldenAndMiniV32) {
  int golden = 0;
  for (const auto& folder : std::filesystem::directory_iterator(kSource / "tests/golden/data")) {
    if (!folder.is_directory()) continue;
    SCOPED_TRACE(folder.path().string());
    EXPECT_NO_THROW(read_config(folder.path()));
    ++golden;
  }
  EXPECT_EQ(golden, 13);
  const Config mini = read_config(kSource / "models/mini-v32");
  EXPECT_EQ(mini.num_hidden_layers, 5);
  EXPECT_EQ(mini.index_topk, 128);
  EXPECT_EQ(mini.rope.factor, 4);
  EXPECT_EQ(mini.rope.original_max_position_embeddings, 2048);
  EXPECT_EQ(mini.eos_token_ids, std::vector<int64_t>{1});

  const Config glm = read_config(kSource / "tests/golden/data/glm-bf16");
  EXPECT_EQ(full_layers(glm), (std::vector<int>{0, 2}));
  const Config v3 = read_config(kSource / "tests/golden/data/v3-bf16");
  EXPECT_EQ(v3.q_lora_rank, 0);
  EXPECT_EQ(v3.n_shared_experts, 2);
}

TEST(Config, AssumesTheTablesDefaultsForMissingFields) {
  Json document = read_data("deepseek-v3.2.json");
  for (const char* field : {"architectures",
                            "num_key_value_heads",
                            "n_shared_experts",
                            "n_group",
                            "topk_group",
                            "norm_topk_prob",
                            "routed_scaling_factor",
                            "scoring_func",
                            "topk_method",
                            "moe_layer_freq",
                            "num_nextn_predict_layers",
                            "hidden_act",
                            "rms_norm_eps",
                            "rope_theta",
                            "rope_scaling",
                            "attention_bias",
                            "tie_word_embeddings",
                            "bos_token_id",
                            "eos_token_id",
                            "torch_dtype",
                            "quantization_config"}) {
    ASSERT_EQ(document.erase(field), 1U) << field;
  }
  const Config c = parse(document);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.n_group, 1);
  EXPECT_EQ(c.topk_group, 1);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 1.0);
  EXPECT_EQ(moe_layers(c).size(), 58U);
  EXPECT_EQ(c.num_nextn_predict_layers, 0);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_EQ(c.rope.type, RopeConfig::Type::kDefault);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_FALSE(c.bos_token_id);
  EXPECT_TRUE(c.eos_token_ids.empty());
  EXPECT_EQ(full_layers(c).size(), 61U);
}

TEST(Config, TakesNullForAFieldThatHasASayNothingValue) {
  Json document = read_data("glm-5.json");
  for (const char* field :
       {"num_key_value_heads", "qk_head_dim", "rope_scaling", "quantization_config", "bos_token_id",
        "eos_token_id", "indexer_types", "index_topk_pattern", "mlp_layer_types", "dtype", "architectures"}) {
    document[field] = nullptr;
  }
  const Config c = parse(document);
  EXPECT_EQ(full_layers(c).size(), 78U);
  Json dense = read_data("deepseek-r1.json");
  dense["q_lora_rank"] = nullptr;
  EXPECT_EQ(parse(dense).q_lora_rank, 0);
}

TEST(Config, IgnoresFieldsItDoesNotKnow) {
  Json document = read_data("deepseek-r1.json");
  document["head_dim"] = "anything";
  document["pad_token_id"] = -1;
  document["moe_router_dtype"] = {1, 2, 3};
  document["made_up"] = {{"nested", true}};
  EXPECT_NO_THROW(parse(document));
}

TEST(Config, RotatesTheIndexerAsTheFieldSaysElseAsTheFamilyDoes) {
  Json glm = read_data("glm-5.json");
  glm.erase("indexer_rope_interleave");
  EXPECT_TRUE(parse(glm).indexer_rope_interleave);
  glm["indexer_rope_interleave"] = false;
  EXPECT_FALSE(parse(glm).indexer_rope_interleave);
  Json v32 = read_data("deepseek-v3.2.json");
  v32["indexer_rope_interleave"] = true;
  EXPECT_TRUE(parse(v32).indexer_rope_interleave);
}

TEST(ConfigSchedule, TakesIndexerTypesOverPatternOverFrequency) {
  Json document = read_data("glm-5.json");
  document["num_hidden_layers"] = 6;
  document["index_topk_freq"] = 4;
  document["index_skip_topk_offset"] = 3;
  EXPECT_EQ(full_layers(parse(document)), (std::vector<int>{0, 1, 2}));
  document["index_topk_pattern"] = "FSFSFS";
  EXPECT_EQ(full_layers(parse(document)), (std::vector<int>{0, 2, 4}));
  document["index_topk_pattern"] = {"F", "S", "S", "F", "S", "S"};
  EXPECT_EQ(full_layers(parse(document)), (std::vector<int>{0, 3}));
  document["indexer_types"] = {"full", "shared", "shared", "shared", "shared", "full"};
  EXPECT_EQ(full_layers(parse(document)), (std::vector<int>{0, 5}));
}

TEST(ConfigSchedule, FollowsTheFrequencyRule) {
  Json document = read_data("glm-5.2.json");
  document.erase("indexer_types");
  EXPECT_EQ(full_layers(parse(document)), full_layers(parse(read_data("glm-5.2.json"))));
  document.erase("index_skip_topk_offset");  // default 2
  document["num_hidden_layers"] = 10;
  EXPECT_EQ(full_layers(parse(document)), (std::vector<int>{0, 1, 5, 9}));
}

TEST(ConfigSchedule, TakesMlpLayerTypesOverTheFirstKDense) {
  Json document = read_data("deepseek-v3.2.json");
  document["num_hidden_layers"] = 4;
  document["first_k_dense_replace"] = 1;
  EXPECT_EQ(moe_layers(parse(document)), (std::vector<int>{1, 2, 3}));
  document["moe_layer_freq"] = 2;
  EXPECT_EQ(moe_layers(parse(document)), (std::vector<int>{2}));
  document["mlp_layer_types"] = {"dense", "sparse", "dense", "sparse"};
  EXPECT_EQ(moe_layers(parse(document)), (std::vector<int>{1, 3}));
  document.erase("first_k_dense_replace");
  EXPECT_EQ(moe_layers(parse(document)), (std::vector<int>{1, 3}));
}

TEST(ConfigRope, ReadsBothSpellingsAndPrefersRopeParameters) {
  Json document = read_data("deepseek-v3.2.json");
  document["rope_scaling"].erase("type");
  document["rope_scaling"]["rope_type"] = "yarn";
  EXPECT_EQ(parse(document).rope.type, RopeConfig::Type::kYarn);
  document["rope_parameters"] = {{"rope_theta", 5000.5},
                                 {"rope_type", "yarn"},
                                 {"factor", 2},
                                 {"original_max_position_embeddings", 512},
                                 {"attention_factor", 1.25}};
  const RopeConfig rope = parse(document).rope;
  EXPECT_EQ(rope.theta, 5000.5);
  EXPECT_EQ(rope.factor, 2);
  EXPECT_EQ(rope.original_max_position_embeddings, 512);
  EXPECT_EQ(rope.attention_factor, 1.25);
  EXPECT_EQ(rope.beta_fast, 32);
  EXPECT_EQ(rope.mscale, 0);
  document["rope_parameters"] = Json::object();
  EXPECT_EQ(parse(document).rope.type, RopeConfig::Type::kDefault);
  EXPECT_EQ(parse(document).rope.theta, 10000);
  document["rope_parameters"] = {{"rope_theta", 77.0}};
  EXPECT_EQ(parse(document).rope.theta, 77);
}

class ConfigFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("fulgur-config-" + std::to_string(::getpid()) + "-" +
               testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& file, const std::string& text) const {
    std::ofstream(folder_ / file) << text;
  }

  path folder_;
};

TEST_F(ConfigFolder, AddsTheEndTokensOfGenerationConfig) {
  write("config.json", read_data("deepseek-r1.json").dump());
  EXPECT_EQ(read_config(folder_).eos_token_ids, std::vector<int64_t>{1});
  write("generation_config.json", R"({"eos_token_id": [7, 1, 7], "temperature": 0.6})");
  EXPECT_EQ(read_config(folder_).eos_token_ids, (std::vector<int64_t>{1, 7}));
  write("generation_config.json", R"({"eos_token_id": 129280})");
  try {
    read_config(folder_);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kBadConfig);
    EXPECT_EQ(error.problems()[0].file, "generation_config.json");
    EXPECT_EQ(error.problems()[0].tensor, "eos_token_id");
    EXPECT_EQ(error.problems()[0].found, "129280");
  }
}

TEST_F(ConfigFolder, RefusesAFolderWithoutConfig) {
  const auto kind_of = [](const path& folder) {
    try {
      read_config(folder);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("config.json"), std::string::npos);
      return error.kind();
    }
    return ErrorKind::kDevice;
  };
  EXPECT_EQ(kind_of(folder_), ErrorKind::kIoError);
  EXPECT_EQ(kind_of(folder_ / "nowhere"), ErrorKind::kIoError);
  std::filesystem::create_symlink("config.json", folder_ / "config.json");  // to itself
  EXPECT_EQ(kind_of(folder_), ErrorKind::kIoError);
  std::filesystem::remove(folder_ / "config.json");
  std::filesystem::create_directory(folder_ / "config.json");
  EXPECT_EQ(kind_of(folder_), ErrorKind::kIoError);
}

TEST(Config, OverridesIndexTopkWithinTheSameRange) {
  Config sparse = parse(read_data("deepseek-v3.2.json"));
  override_index_topk(sparse, 64);
  EXPECT_EQ(sparse.index_topk, 64);
  const auto kind_of = [](Config config, int64_t topk) {
    try {
      override_index_topk(config, topk);
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kDevice;
  };
  EXPECT_EQ(kind_of(sparse, 0), ErrorKind::kBadRequest);
  EXPECT_EQ(kind_of(sparse, -1), ErrorKind::kBadRequest);
  EXPECT_EQ(kind_of(sparse, (1 << 24) + 1), ErrorKind::kBadRequest);
  EXPECT_EQ(kind_of(parse(read_data("deepseek-r1.json")), 64), ErrorKind::kBadRequest);
}

}  // namespace
}  // namespace fulgur
