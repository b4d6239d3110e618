#include "model/load.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>

#include "base/json.h"
#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

const std::filesystem::path kSource = FULGUR_SOURCE_DIR;
const std::string kPlainCheckpoints[] = {
    "tests/golden/data/glm-bf16", "tests/golden/data/glm-bf16-fused", "tests/golden/data/v3-bf16",
    "tests/golden/data/v32-bf16", "tests/golden/data/v32-bf16-fused", "models/mini-v32"};

const std::string kQuantizedCheckpoints[] = {
    "tests/golden/data/v32-fp8", "tests/golden/data/v32-fp8-fused", "tests/golden/data/v32-nvfp4",
    "tests/golden/data/glm-fp8", "tests/golden/data/glm-fp8-fused", "tests/golden/data/glm-nvfp4-ct",
    "tests/golden/data/v3-fp8",  "tests/golden/data/v3-nvfp4"};
constexpr WeightForm kPlainForms[] = {WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32};

ModelPlan plan_folder(const std::filesystem::path& folder, Precision precision, bool with_mtp) {
  return plan_model(read_config(folder), precision, read_catalog(folder), with_mtp);
}

/// A golden's tensors and config, to be changed and planned. Shapes and dtypes only count; data is zeros.
struct Altered {
  explicit Altered(const std::string& golden) {
    const std::filesystem::path folder = kSource / "tests/golden/data" / golden;
    config = read_json(folder / "config.json", ErrorKind::kBadConfig);
    for (const CatalogEntry& entry : read_catalog(folder).entries) {
      tensors[entry.name] = {entry.name, entry.dtype_name, entry.shape, std::string(entry.bytes, '\0')};
    }
  }
  void add(const std::string& name, const std::vector<int64_t>& shape) {
    size_t bytes = 2;
    for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
    tensors[name] = {name, "BF16", shape, std::string(bytes, '\0')};
  }
  void erase(const std::string& name) { ASSERT_EQ(tensors.erase(name), 1U) << name; }
  void erase_layer(int layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    std::erase_if(tensors, [&](const auto& item) { return item.first.starts_with(prefix); });
  }
  [[nodiscard]] ModelPlan plan(bool with_mtp = false) const {
    const TemporaryFolder folder;
    write(folder);
    return plan_folder(folder.path(), Precision::kNative, with_mtp);
  }
  void write(const TemporaryFolder& folder) const {
    std::vector<TestTensor> list;
    for (const auto& [name, tensor] : tensors) list.push_back(tensor);
    write_bytes(folder / "model.safetensors", good_safetensors(list));
    write_bytes(folder / "config.json", config.dump());
  }

  Json config;
  std::map<std::string, TestTensor> tensors;
};

TEST(ModelPlan, ConsumesEveryTensorOfThePlainCheckpoints) {
  for (const std::string& folder : kPlainCheckpoints) {
    for (const Precision precision : {Precision::kNative, Precision::kFull}) {
      SCOPED_TRACE(folder);
      const Catalog catalog = read_catalog(kSource / folder);
      const ModelPlan plan = plan_folder(kSource / folder, precision, /*with_mtp=*/true);
      EXPECT_EQ(summary(plan.load.problems), "");
      EXPECT_TRUE(plan.load.ignored.empty());
      EXPECT_TRUE(plan.notices.empty());
      ASSERT_EQ(plan.load.parameters.size(), plan.parameters.size());
      std::set<int> consumed;
      for (const PlannedParameter& parameter : plan.load.parameters) {
        for (const PlannedSource& source : parameter.sources) consumed.insert(source.entry);
      }
      EXPECT_EQ(consumed.size(), catalog.entries.size());
    }
  }
}

TEST(ModelPlan, LeavesTheMtpLayerOutUnlessItIsAskedFor) {
  for (const std::string& folder : kPlainCheckpoints) {
    SCOPED_TRACE(folder);
    const Config config = read_config(kSource / folder);
    const Catalog catalog = read_catalog(kSource / folder);
    const ModelPlan plan = plan_folder(kSource / folder, Precision::kNative, /*with_mtp=*/false);
    EXPECT_EQ(summary(plan.load.problems), "");
    EXPECT_TRUE(plan.notices.empty());
    const std::string prefix = "model.layers." + std::to_string(config.num_hidden_layers) + ".";
    const auto in_layer = std::count_if(catalog.entries.begin(), catalog.entries.end(),
                                        [&](const CatalogEntry& e) { return e.name.starts_with(prefix); });
    EXPECT_EQ(static_cast<int64_t>(plan.load.ignored.size()), in_layer);
    EXPECT_EQ(in_layer > 0, config.num_nextn_predict_layers > 0);
  }
}

TEST(ModelPlan, HoldsWhatKernelsRelyOnInTheirTypes) {
  for (const std::string& folder : kPlainCheckpoints) {
    for (const Precision precision : {Precision::kNative, Precision::kFull}) {
      const WeightForm made = precision == Precision::kFull ? WeightForm::kF32 : WeightForm::kBf16;
      const ModelPlan plan = plan_folder(kSource / folder, precision, /*with_mtp=*/true);
      for (size_t i = 0; i < plan.parameters.size(); ++i) {
        const Parameter& parameter = plan.parameters[i];
        SCOPED_TRACE(folder + " " + parameter.name);
        const bool vector = parameter.rows == 1;
        const bool is_made =
            parameter.name.ends_with("wk_weights_proj") || parameter.arrangement != Arrangement::kRows;
        EXPECT_EQ(plan.load.parameters[i].held, vector    ? WeightForm::kF32
                                                : is_made ? made
                                                          : WeightForm::kBf16);
      }
    }
  }
}

TEST(ModelPlan, FillsEverySlotOnce) {
  for (const std::string& folder : kPlainCheckpoints) {
    const ModelPlan plan = plan_folder(kSource / folder, Precision::kNative, /*with_mtp=*/true);
    std::set<const Weight*> slots(plan.slots.begin(), plan.slots.end());
    EXPECT_EQ(slots.size(), plan.parameters.size());
    std::set<std::string> names;
    for (const Parameter& parameter : plan.parameters) names.insert(parameter.name);
    EXPECT_EQ(names.size(), plan.parameters.size());
  }
}

TEST(ModelPlan, NamesTheConfigFieldsThatContradictAShape) {
  struct Change {
    std::string field;
    int64_t value;
    std::string tensor;    // whose shape then mismatches
    std::string expected;  // in the problem
  };
  const Change changes[] = {
      {"vocab_size", 200, "model.embed_tokens.weight", "200 (vocab_size)"},
      {"hidden_size", 180, "model.norm.weight", "180 (hidden_size)"},
      {"intermediate_size", 32, "model.layers.0.mlp.gate_proj.weight", "32 (intermediate_size)"},
      {"moe_intermediate_size", 8, "model.layers.1.mlp.experts.0.down_proj.weight",
       "8 (moe_intermediate_size)"},
      {"n_shared_experts", 2, "model.layers.1.mlp.shared_experts.up_proj.weight",
       "32 (n_shared_experts * moe_intermediate_size)"},
      {"q_lora_rank", 30, "model.layers.0.self_attn.q_a_proj.weight", "30 (q_lora_rank)"},
      {"kv_lora_rank", 40, "model.layers.0.self_attn.kv_a_layernorm.weight", "40 (kv_lora_rank)"},
      {"qk_nope_head_dim", 24, "model.layers.0.self_attn.kv_b_proj.weight",
       "132 (num_attention_heads * (qk_nope_head_dim + v_head_dim))"},
      {"qk_rope_head_dim", 32, "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
       "64 (kv_lora_rank + qk_rope_head_dim)"},
      {"v_head_dim", 24, "model.layers.0.self_attn.o_proj.weight", "72 (num_attention_heads * v_head_dim)"},
      {"index_n_heads", 8, "model.layers.0.self_attn.indexer.weights_proj.weight", "8 (index_n_heads)"},
      {"index_head_dim", 64, "model.layers.0.self_attn.indexer.k_norm.bias", "64 (index_head_dim)"},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.field);
    Altered model("v32-bf16");
    model.config[change.field] = change.value;
    const ModelPlan plan = model.plan();
    const auto& problems = plan.load.problems;
    ASSERT_FALSE(problems.empty());
    const auto found = std::find_if(problems.begin(), problems.end(),
                                    [&](const Problem& problem) { return problem.tensor == change.tensor; });
    ASSERT_NE(found, problems.end());
    EXPECT_EQ(found->kind, ErrorKind::kShapeMismatch);
    EXPECT_NE(found->expected.find(change.expected), std::string::npos) << found->expected;
    EXPECT_NE(found->message.find(change.field), std::string::npos) << found->message;
  }
}

TEST(ModelPlan, NamesTheFusedTensorsDimensions) {
  Altered model("v32-bf16-fused");
  model.config["index_n_heads"] = 8;
  const ModelPlan plan = model.plan();
  ASSERT_FALSE(plan.load.problems.empty());
  const Problem& first = plan.load.problems.front();
  EXPECT_EQ(first.tensor, "model.layers.0.self_attn.indexer.wk_weights_proj.weight");
  EXPECT_EQ(first.kind, ErrorKind::kShapeMismatch);
  EXPECT_NE(first.expected.find("136 (index_head_dim + index_n_heads)"), std::string::npos) << first.expected;
}

TEST(ModelPlan, TakesFusedAndSeparateLayersMixed) {
  Altered model("v32-bf16");
  model.erase("model.layers.1.self_attn.indexer.wk.weight");
  model.erase("model.layers.1.self_attn.indexer.weights_proj.weight");
  model.add("model.layers.1.self_attn.indexer.wk_weights_proj.weight", {132, 176});
  EXPECT_EQ(summary(model.plan().load.problems), "");
}

TEST(ModelPlan, RefusesADenseModelsConfigBesideIndexerTensors) {
  Altered model("v32-bf16");
  model.config["model_type"] = "deepseek_v3";
  model.config.erase("architectures");
  const ModelPlan plan = model.plan();
  ASSERT_EQ(plan.load.problems.size(), 1U);
  const Problem& problem = plan.load.problems[0];
  EXPECT_EQ(problem.kind, ErrorKind::kBadConfig);
  EXPECT_EQ(problem.tensor, "model_type");
  EXPECT_EQ(problem.file, "config.json");
  EXPECT_NE(problem.message.find("model.layers.0.self_attn.indexer.k_norm.bias"), std::string::npos);
}

TEST(ModelPlan, ShowsAnIndexerTensorOfADenseModelEscaped) {
  Altered model("v3-bf16");
  model.add("model.layers.0.self_attn.indexer.\\u001b[31m.weight", {1});  // in JSON
  const ModelPlan plan = model.plan();
  ASSERT_GE(plan.load.problems.size(), 1U);
  EXPECT_NE(plan.load.problems[0].message.find("indexer.\\x1b[31m.weight"), std::string::npos)
      << plan.load.problems[0].message;
}

TEST(ModelPlan, NamesTheFirstMissingTensorOfASparseModelWithoutIndexer) {
  Altered model("v32-bf16");
  std::erase_if(model.tensors,
                [](const auto& item) { return item.first.find(".indexer.") != std::string::npos; });
  const ModelPlan plan = model.plan();
  ASSERT_FALSE(plan.load.problems.empty());
  EXPECT_EQ(plan.load.problems[0].kind, ErrorKind::kMissingTensor);
  EXPECT_EQ(plan.load.problems[0].tensor, "model.layers.0.self_attn.indexer.wk.weight");
  for (const Problem& problem : plan.load.problems) EXPECT_EQ(problem.kind, ErrorKind::kMissingTensor);
}

TEST(ModelPlan, RefusesBothWaysToMakeTheQuery) {
  Altered with_latent("v32-bf16");
  with_latent.add("model.layers.1.self_attn.q_proj.weight", {240, 176});
  auto problems = with_latent.plan().load.problems;
  ASSERT_EQ(problems.size(), 1U) << summary(problems);
  EXPECT_EQ(problems[0].kind, ErrorKind::kConflictingTensors);
  EXPECT_NE(problems[0].message.find("model.layers.1.self_attn.q_a_proj.weight"), std::string::npos);
  EXPECT_NE(problems[0].message.find("model.layers.1.self_attn.q_proj.weight"), std::string::npos);

  Altered without("v3-bf16");
  without.add("model.layers.0.self_attn.q_a_proj.weight", {8, 160});
  problems = without.plan().load.problems;
  ASSERT_EQ(problems.size(), 1U) << summary(problems);
  EXPECT_EQ(problems[0].kind, ErrorKind::kConflictingTensors);
}

TEST(ModelPlan, IgnoresWhatTheSpecNamesAndNothingElse) {
  Altered model("glm-bf16");
  const std::vector<std::string> ignored = {"model.layers.0.self_attn.rotary_emb.inv_freq",
                                            "model.rotary_emb.inv_freq",
                                            "model.layers.1.self_attn.indexer.wk.weight",
                                            "model.layers.1.self_attn.indexer.k_norm.bias",
                                            "model.layers.1.self_attn.indexer.anything",
                                            "model.layers.0.self_attn.k_scale",
                                            "model.layers.0.self_attn.kv_b_proj.v_scale",
                                            "model.layers.2.self_attn.attn.kv_scale",
                                            "model.layers.2.self_attn.q_scale",
                                            "model.layers.4.mlp.gate.weight",
                                            "model.layers.1000.anything.at.all"};
  const std::vector<std::string> unexpected = {
      "model.layers.0.self_attn.indexer.mywk.weight",
      "model.layers.0.self_attn.indexer.wk_extra.weight",
      "model.layers.0.self_attn.indexer.wk_weights_proj_weights_proj.weight",
      "model.layers.1.mlp.experts.5.gate_proj.weight",
      "model.layers.1.mlp.gate_proj.weight",
      "model.layers.0.mlp.k_scale",
      "model.layers.x.norm.weight",
      "model.rotary_emb.inv_freq.copy",
      "lm_head.bias"};
  for (const std::string& name : ignored) model.add(name, {2});
  for (const std::string& name : unexpected) model.add(name, {2});
  const ModelPlan plan = model.plan();
  std::set<std::string> refused;
  for (const Problem& problem : plan.load.problems) {
    EXPECT_EQ(problem.kind, ErrorKind::kUnexpectedTensor);
    refused.insert(problem.tensor);
  }
  EXPECT_EQ(refused, std::set<std::string>(unexpected.begin(), unexpected.end()));
  for (const IgnoredTensor& tensor : plan.load.ignored) EXPECT_FALSE(tensor.rule.empty());
}

TEST(ModelPlan, NeedsNoHeadWhereEmbeddingsAreTied) {
  Altered model("v32-bf16");
  model.config["tie_word_embeddings"] = true;
  EXPECT_EQ(summary(model.plan().load.problems), "unexpected_tensor lm_head.weight");
  model.erase("lm_head.weight");
  EXPECT_EQ(summary(model.plan().load.problems), "");
}

TEST(ModelPlan, NeedsNoSharedExpertWhereThereAreNone) {
  Altered model("v32-bf16");
  std::erase_if(model.tensors,
                [](const auto& item) { return item.first.find(".shared_experts.") != std::string::npos; });
  EXPECT_EQ(model.plan().load.problems.size(), 6U);
  model.config["n_shared_experts"] = 0;
  EXPECT_EQ(summary(model.plan().load.problems), "");
}

TEST(ModelPlan, NoticesAMissingMtpLayer) {
  Altered model("glm-bf16");
  model.erase_layer(3);
  model.add("model.layers.3.self_attn.rotary_emb.inv_freq", {8});
  for (const bool with_mtp : {false, true}) {
    const ModelPlan plan = model.plan(with_mtp);
    EXPECT_EQ(summary(plan.load.problems), "");
    ASSERT_EQ(plan.notices.size(), 1U);
    EXPECT_NE(plan.notices[0].find("model.layers.3"), std::string::npos);
  }
}

TEST(ModelPlan, IsStoppedByADamagedMtpLayerOnlyWhereItIsUsed) {
  Altered model("glm-bf16");
  model.erase("model.layers.3.enorm.weight");
  model.erase("model.layers.3.self_attn.indexer.wk.weight");
  model.add("model.layers.3.eh_proj.weight", {144, 287});
  const ModelPlan unused = model.plan(/*with_mtp=*/false);
  EXPECT_EQ(summary(unused.load.problems), "");
  ASSERT_EQ(unused.notices.size(), 1U);
  EXPECT_NE(unused.notices[0].find("model.layers.3.enorm.weight"), std::string::npos) << unused.notices[0];
  EXPECT_NE(unused.notices[0].find("2 more problems"), std::string::npos) << unused.notices[0];
  EXPECT_EQ(summary(model.plan(/*with_mtp=*/true).load.problems),
            "missing_tensor model.layers.3.enorm.weight\n"
            "missing_tensor model.layers.3.self_attn.indexer.wk.weight\n"
            "shape_mismatch model.layers.3.eh_proj.weight");
}

TEST(ModelPlan, IgnoresLayersBeyondTheLastWhereTheConfigHasNoMtp) {
  Altered model("glm-bf16");
  model.config["num_nextn_predict_layers"] = 0;
  model.erase("model.layers.3.enorm.weight");
  const ModelPlan plan = model.plan(/*with_mtp=*/true);
  EXPECT_EQ(summary(plan.load.problems), "");
  EXPECT_TRUE(plan.notices.empty());
}

TEST(ModelPlan, TakesTheMtpLayersOwnEmbeddingAndHeadIfTheyAreThere) {
  Altered model("v3-bf16");
  const ModelPlan copies = model.plan(/*with_mtp=*/true);
  model.erase("model.layers.2.embed_tokens.weight");
  model.erase("model.layers.2.shared_head.head.weight");
  const ModelPlan without = model.plan(/*with_mtp=*/true);
  EXPECT_EQ(summary(without.load.problems), "");
  EXPECT_EQ(without.parameters.size() + 2, copies.parameters.size());
}

TEST(ModelPlan, PutsTheMtpLayersTensorsIntoTheirSlots) {
  const ModelPlan plan =
      plan_folder(kSource / "tests/golden/data/v3-bf16", Precision::kNative, /*with_mtp=*/true);
  std::map<std::string, const Weight*> slots;
  for (size_t i = 0; i < plan.slots.size(); ++i) slots[plan.parameters[i].name] = plan.slots[i];
  const MtpWeights& mtp = plan.weights->mtp;
  EXPECT_EQ(slots["model.layers.2.enorm"], &mtp.enorm);
  EXPECT_EQ(slots["model.layers.2.hnorm"], &mtp.hnorm);
  EXPECT_EQ(slots["model.layers.2.eh_proj"], &mtp.eh_proj);
  EXPECT_EQ(slots["model.layers.2.shared_head.norm"], &mtp.norm);
  EXPECT_EQ(slots["model.layers.2.embed_tokens"], &mtp.embed);
  EXPECT_EQ(slots["model.layers.2.shared_head.head"], &mtp.head);
  EXPECT_EQ(slots["model.layers.2.input_layernorm"], &mtp.layer.input_norm);
  EXPECT_EQ(slots["model.layers.2.mlp.experts.5.down_proj"], &mtp.layer.experts[5].down);
}

TEST(ModelPlan, RefusesMoreExpertsThanThereAreWithoutListingThemAndTellsWhatElseIsWrong) {
  Altered model("v32-bf16");
  model.config["n_routed_experts"] = 65536;
  EXPECT_FALSE(model.plan().parameters.empty());
  const ModelPlan plan = model.plan();
  EXPECT_EQ(summary(plan.load.problems),
            "missing_tensor model.layers.1.mlp.experts.8.gate_proj.weight\n"
            "shape_mismatch model.layers.1.mlp.gate.weight\n"
            "shape_mismatch model.layers.2.mlp.gate.weight");
  for (const Problem& problem : plan.load.problems) {
    EXPECT_NE(problem.expected.find("n_routed_experts"), std::string::npos) << problem.expected;
  }
}

TEST(LoadModel, BindsEveryWeightOfThePlainCheckpoints) {
  for (const std::string& folder : kPlainCheckpoints) {
    SCOPED_TRACE(folder);
    const LoadedModel model = load_model(kSource / folder, Precision::kNative, 2);
    const Config& c = model.config;
    const ModelWeights& w = model.weights;
    const auto expect = [](const Weight& weight, int64_t rows, int64_t cols) {
      EXPECT_TRUE(weight.present());
      EXPECT_EQ(weight.rows, rows);
      EXPECT_EQ(weight.cols, cols);
    };
    const int64_t d = c.hidden_size;
    expect(w.embed, c.vocab_size, d);
    expect(w.norm, 1, d);
    expect(w.head, c.vocab_size, d);
    ASSERT_EQ(static_cast<int64_t>(w.layers.size()), c.num_hidden_layers);
    for (size_t i = 0; i < w.layers.size(); ++i) {
      SCOPED_TRACE(i);
      const LayerWeights& layer = w.layers[i];
      const int64_t h = c.num_attention_heads;
      expect(layer.input_norm, 1, d);
      expect(layer.post_attention_norm, 1, d);
      if (c.q_lora_rank != 0) {
        expect(layer.mla.q_a, c.q_lora_rank, d);
        expect(layer.mla.q_a_norm, 1, c.q_lora_rank);
      } else {
        EXPECT_FALSE(layer.mla.q_a.present());
        EXPECT_FALSE(layer.mla.q_a_norm.present());
      }
      expect(layer.mla.q_b, h * (c.qk_nope_head_dim + c.qk_rope_head_dim),
             c.q_lora_rank != 0 ? c.q_lora_rank : d);
      expect(layer.mla.kv_a, c.kv_lora_rank + c.qk_rope_head_dim, d);
      expect(layer.mla.kv_a_norm, 1, c.kv_lora_rank);
      expect(layer.mla.uk, h * c.kv_lora_rank, c.qk_nope_head_dim);
      expect(layer.mla.uv, h * c.v_head_dim, c.kv_lora_rank);
      expect(layer.mla.o, d, h * c.v_head_dim);
      if (c.sparse() && c.full_indexer[i]) {
        expect(layer.indexer.wk_weights_proj, c.index_head_dim + c.index_n_heads, d);
        expect(layer.indexer.k_norm_gain, 1, c.index_head_dim);
        expect(layer.indexer.k_norm_bias, 1, c.index_head_dim);
        expect(layer.indexer.wq_b, c.index_n_heads * c.index_head_dim, c.q_lora_rank);
      } else {
        EXPECT_FALSE(layer.indexer.wk_weights_proj.present());
      }
      EXPECT_EQ(layer.ffn.gate.present(), !c.moe_layer[i]);
      EXPECT_EQ(layer.router.present(), c.moe_layer[i]);
      if (!c.moe_layer[i]) continue;
      expect(layer.router, c.n_routed_experts, d);
      expect(layer.correction_bias, 1, c.n_routed_experts);
      ASSERT_EQ(static_cast<int64_t>(layer.experts.size()), c.n_routed_experts);
      for (const FfnWeights& expert : layer.experts) {
        expect(expert.gate, c.moe_intermediate_size, d);
        expect(expert.up, c.moe_intermediate_size, d);
        expect(expert.down, d, c.moe_intermediate_size);
      }
      expect(layer.shared.up, c.n_shared_experts * c.moe_intermediate_size, d);
    }
  }
}

TEST(LoadModel, LoadsTheMtpLayerWhereItIsWantedWithTheMainTablesWhereItHasNoCopies) {
  for (const std::string folder : {"tests/golden/data/glm-fp8", "tests/golden/data/v3-bf16"}) {
    SCOPED_TRACE(folder);
    EXPECT_FALSE(load_model(kSource / folder, Precision::kNative, 1).weights.has_mtp());
    const LoadedModel model = load_model(kSource / folder, LoadOptions{.mtp = true}, 1);
    const ModelWeights& w = model.weights;
    ASSERT_TRUE(w.has_mtp());
    EXPECT_EQ(w.mtp.eh_proj.cols, 2 * model.config.hidden_size);
    EXPECT_EQ(w.mtp.layer.indexer.wk_weights_proj.present(), model.config.sparse());
    const bool copies = folder.ends_with("v3-bf16");
    EXPECT_EQ(w.mtp.embed.data != w.embed.data, copies);
    EXPECT_EQ(w.mtp.head.data != w.head.data, copies);
  }
}

TEST(LoadModel, RefusesAModelWithoutTheMtpLayerThatIsWanted) {
  const auto problem = [](const std::filesystem::path& folder) {
    return problems_of([&] { load_model(folder, LoadOptions{.mtp = true}, 1); }).at(0);
  };
  const Problem none = problem(kSource / "tests/golden/data/v32-bf16");
  EXPECT_EQ(none.kind, ErrorKind::kBadRequest);
  EXPECT_EQ(none.found, "num_nextn_predict_layers = 0");
  Altered absent("v3-bf16");
  absent.erase_layer(2);
  const TemporaryFolder folder;
  absent.write(folder);
  EXPECT_EQ(problem(folder.path()).found, "no tensor of model.layers.2");
  Altered damaged("v3-bf16");
  damaged.erase("model.layers.2.enorm.weight");
  const TemporaryFolder other;
  damaged.write(other);
  EXPECT_EQ(problem(other.path()).tensor, "model.layers.2.enorm.weight");
}

/// The bytes of a bound weight are those of its tensor, wherever the loader put them.
TEST(LoadModel, PutsTheRightTensorIntoEachSlot) {
  const std::filesystem::path folder = kSource / "tests/golden/data/v32-bf16";
  const Catalog catalog = read_catalog(folder);
  const LoadedModel model = load_model(folder, Precision::kNative, 1);
  const LayerWeights& layer = model.weights.layers[1];
  const auto expect_bytes = [&](const Weight& weight, int64_t first_row, const std::string& tensor) {
    const CatalogEntry* entry = catalog.find(tensor);
    ASSERT_NE(entry, nullptr) << tensor;
    const auto stored = catalog.bytes(*entry);
    const auto* held = static_cast<const std::byte*>(weight.data) + first_row * weight.cols * 2;
    EXPECT_EQ(std::memcmp(held, stored.data(), stored.size()), 0) << tensor;
  };
  const std::string p = "model.layers.1.";
  expect_bytes(model.weights.embed, 0, "model.embed_tokens.weight");
  expect_bytes(model.weights.head, 0, "lm_head.weight");
  expect_bytes(layer.mla.q_a, 0, p + "self_attn.q_a_proj.weight");
  expect_bytes(layer.mla.q_b, 0, p + "self_attn.q_b_proj.weight");
  expect_bytes(layer.mla.kv_a, 0, p + "self_attn.kv_a_proj_with_mqa.weight");
  expect_bytes(layer.mla.o, 0, p + "self_attn.o_proj.weight");
  expect_bytes(layer.indexer.wq_b, 0, p + "self_attn.indexer.wq_b.weight");
  expect_bytes(layer.indexer.wk_weights_proj, 0, p + "self_attn.indexer.wk.weight");
  expect_bytes(layer.indexer.wk_weights_proj, 128, p + "self_attn.indexer.weights_proj.weight");
  expect_bytes(layer.router, 0, p + "mlp.gate.weight");
  expect_bytes(layer.experts[5].gate, 0, p + "mlp.experts.5.gate_proj.weight");
  expect_bytes(layer.experts[5].up, 0, p + "mlp.experts.5.up_proj.weight");
  expect_bytes(layer.experts[5].down, 0, p + "mlp.experts.5.down_proj.weight");
  expect_bytes(layer.shared.gate, 0, p + "mlp.shared_experts.gate_proj.weight");
  expect_bytes(layer.shared.up, 0, p + "mlp.shared_experts.up_proj.weight");
  expect_bytes(layer.shared.down, 0, p + "mlp.shared_experts.down_proj.weight");
  expect_bytes(model.weights.layers[0].ffn.gate, 0, "model.layers.0.mlp.gate_proj.weight");
  expect_bytes(model.weights.layers[0].ffn.up, 0, "model.layers.0.mlp.up_proj.weight");
  expect_bytes(model.weights.layers[0].ffn.down, 0, "model.layers.0.mlp.down_proj.weight");

  const auto expect_norm = [&](const Weight& weight, const std::string& tensor) {
    const auto stored = catalog.bytes(*catalog.find(tensor));
    const bool is_f32 = catalog.find(tensor)->dtype == DType::kF32;
    for (int64_t i = 0; i < weight.cols; ++i) {
      Bf16 half;
      float whole = 0;
      if (is_f32) {
        std::memcpy(&whole, stored.data() + i * 4, 4);
      } else {
        std::memcpy(&half, stored.data() + i * 2, 2);
        whole = to_float(half);
      }
      ASSERT_EQ(static_cast<const float*>(weight.data)[i], whole) << tensor << " " << i;
    }
  };
  expect_norm(layer.input_norm, p + "input_layernorm.weight");
  expect_norm(layer.post_attention_norm, p + "post_attention_layernorm.weight");
  expect_norm(layer.mla.q_a_norm, p + "self_attn.q_a_layernorm.weight");
  expect_norm(layer.mla.kv_a_norm, p + "self_attn.kv_a_layernorm.weight");
  expect_norm(layer.indexer.k_norm_gain, p + "self_attn.indexer.k_norm.weight");
  expect_norm(layer.indexer.k_norm_bias, p + "self_attn.indexer.k_norm.bias");
  expect_norm(layer.correction_bias, p + "mlp.gate.e_score_correction_bias");
  expect_norm(model.weights.norm, "model.norm.weight");
}

TEST(LoadModel, TakesTheEmbeddingForATiedHead) {
  Altered model("v32-bf16");
  model.config["tie_word_embeddings"] = true;
  model.erase("lm_head.weight");
  const TemporaryFolder folder;
  model.write(folder);
  const LoadedModel loaded = load_model(folder.path(), Precision::kNative, 1);
  EXPECT_EQ(loaded.weights.head.data, loaded.weights.embed.data);
}

TEST(LoadModel, ReportsConfigAndHeadersTogether) {
  Altered model("v32-bf16");
  model.config["hidden_size"] = 0;
  const TemporaryFolder folder;
  model.write(folder);
  const std::string bytes = read_bytes(folder / "model.safetensors");
  write_bytes(folder / "model.safetensors", bytes.substr(0, bytes.size() - 1));
  const auto problems = problems_of([&] { load_model(folder.path(), Precision::kNative, 1); });
  ASSERT_GE(problems.size(), 2U);
  EXPECT_EQ(problems[0].tensor, "hidden_size");
  EXPECT_EQ(problems[1].kind, ErrorKind::kTruncatedFile);
}

TEST(LoadModel, SaysWhichFolderIsNone) {
  try {
    load_model("no/such/folder", Precision::kNative, 1);
    FAIL() << "not refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIoError);
    EXPECT_EQ(error.problems().size(), 1U);
    EXPECT_EQ(error.context(), std::vector<std::string>{"loading no/such/folder"});
  }
}

TEST(LoadModel, LeavesNoTensorOfAQuantizedCheckpointUnused) {
  for (const std::string& folder : kQuantizedCheckpoints) {
    for (const std::span<const WeightForm> readable :
         {std::span<const WeightForm>(kAllForms), std::span<const WeightForm>(kPlainForms)}) {
      SCOPED_TRACE(folder);
      const Catalog catalog = read_catalog(kSource / folder);
      const ModelPlan plan =
          plan_model(read_config(kSource / folder), Precision::kNative, catalog, /*with_mtp=*/true, readable);
      EXPECT_EQ(summary(plan.load.problems), "");
      std::set<int> used;
      for (const PlannedParameter& parameter : plan.load.parameters) {
        EXPECT_NE(std::find(readable.begin(), readable.end(), parameter.held), readable.end());
        for (const PlannedSource& source : parameter.sources) {
          used.insert(source.entry);
          for (const PlannedScale& scale : source.scales) used.insert(scale.entry);
        }
      }
      for (const IgnoredTensor& ignored : plan.load.ignored) {
        const std::string& name = catalog.entries[static_cast<size_t>(ignored.entry)].name;
        EXPECT_TRUE(name.ends_with(".input_scale") || name.ends_with(".input_global_scale")) << name;
        used.insert(ignored.entry);
      }
      EXPECT_EQ(used.size(), catalog.entries.size());
    }
  }
}

}  // namespace
}  // namespace fulgur
