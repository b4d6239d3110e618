#include "model/config_changes.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "model/config.h"

namespace fulgur {
namespace {

const std::filesystem::path kConfigs = std::filesystem::path(FULGUR_SOURCE_DIR) / "models/configs";

Config changed(const std::string& file, const ConfigChanges& changes) {
  return parse_config(change_config(kConfigs / file, changes), file);
}

Problem refusal(const std::string& file, const ConfigChanges& changes) {
  try {
    changed(file, changes);
  } catch (const Error& error) {
    return error.problems().front();
  }
  return {};
}

TEST(ConfigChanges, LeavesAConfigAsItIsWithoutAny) {
  for (const char* file : {"deepseek-v3.2.json", "deepseek-r1.json", "glm-5.json", "glm-5.2.json"}) {
    EXPECT_EQ(parse_json(change_config(kConfigs / file, {}), ErrorKind::kBadConfig, file),
              read_json(kConfigs / file, ErrorKind::kBadConfig));
  }
}

TEST(ConfigChanges, CutsListsOfLayersToTheLayersThatAreLeft) {
  const Config config = changed("glm-5.2.json", {.num_layers = 7});
  EXPECT_EQ(config.full_indexer, (std::vector<bool>{true, true, true, false, false, false, true}));
  const Config pattern =
      changed("glm-5.json", {.num_layers = 3, .fields = {{"index_topk_pattern", "\"FSF\""}}});
  EXPECT_EQ(pattern.full_indexer, (std::vector<bool>{true, false, true}));
}

TEST(ConfigChanges, SetsFieldsAfterTheLayers) {
  const Config config =
      changed("deepseek-v3.2.json",
              {.num_layers = 1, .fields = {{"first_k_dense_replace", "0"}, {"rms_norm_eps", "1e-3"}}});
  EXPECT_EQ(config.num_hidden_layers, 1);
  EXPECT_EQ(config.moe_layer, std::vector<bool>{true});
  EXPECT_EQ(config.rms_norm_eps, 1e-3);
}

TEST(ConfigChanges, SetsFieldsInsideOthers) {
  EXPECT_EQ(changed("deepseek-v3.2.json", {.fields = {{"rope_scaling.factor", "7"}}}).rope.factor, 7);
}

TEST(ConfigChanges, RefusesFewerLayersThanAreDenseAndSaysWhatToAdd) {
  const Problem problem = refusal("deepseek-v3.2.json", {.num_layers = 1});
  EXPECT_EQ(problem.kind, ErrorKind::kBadConfig);
  EXPECT_EQ(problem.tensor, "first_k_dense_replace");
  EXPECT_NE(problem.todo.find("--set first_k_dense_replace=0"), std::string::npos);
}

TEST(ConfigChanges, RefusesFieldsThatAreNotRead) {
  for (const char* field : {"hidden_sise", "initializer_range", "rope_scaling.facter",
                            "rope_parameters.factor", "hidden_size.x", "rope_scaling.", ".factor", ""}) {
    const Problem problem = refusal("deepseek-v3.2.json", {.fields = {{field, "1"}}});
    EXPECT_EQ(problem.kind, ErrorKind::kBadConfig) << field;
    EXPECT_EQ(problem.tensor, field);
  }
}

TEST(ConfigChanges, KnowsEveryFieldOfAPublishedConfigThatSaysWhatIsComputed) {
  const auto known = config_field_names();
  for (const char* field :
       {"model_type", "hidden_size", "q_lora_rank", "rope_scaling", "rope_parameters", "rope_theta",
        "indexer_types", "index_topk_freq", "mlp_layer_types", "quantization_config", "eos_token_id",
        "num_nextn_predict_layers", "tie_word_embeddings", "dtype", "architectures"}) {
    EXPECT_TRUE(known.contains(field)) << field;
  }
}

TEST(ConfigChanges, RefusesValuesThatAreNotJsonOrThatTheFieldCannotHave) {
  EXPECT_NE(
      refusal("glm-5.json", {.fields = {{"hidden_act", "silu"}}}).todo.find("--set 'hidden_act=\"silu\"'"),
      std::string::npos);
  for (const char* value : {"-1", "\"7168\"", "1.5", "[1]", "null"}) {
    EXPECT_EQ(refusal("glm-5.json", {.fields = {{"hidden_size", value}}}).tensor, "hidden_size") << value;
  }
}

TEST(ConfigChanges, RefusesTwoWordsOnTheNumberOfLayers) {
  EXPECT_EQ(refusal("glm-5.json", {.num_layers = 4, .fields = {{"num_hidden_layers", "5"}}}).tensor,
            "num_hidden_layers");
}

}  // namespace
}  // namespace fulgur
