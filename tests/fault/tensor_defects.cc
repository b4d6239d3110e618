#include <fmt/format.h>

#include "defects.h"

namespace fulgur {
namespace {

using Checkpoint = GoldenCheckpoint;
using Result = std::optional<Expected>;

constexpr const char* kWk = "model.layers.*.self_attn.indexer.wk.weight";
constexpr const char* kFused = "model.layers.*.self_attn.indexer.wk_weights_proj.weight";
constexpr const char* kOutput = "model.layers.*.self_attn.o_proj.weight";

constexpr auto kMissing = ErrorKind::kMissingTensor;
constexpr auto kConflict = ErrorKind::kConflictingTensors;
constexpr auto kShape = ErrorKind::kShapeMismatch;
constexpr auto kType = ErrorKind::kUnknownDType;
constexpr auto kUnexpected = ErrorKind::kUnexpectedTensor;

/// "...indexer.wk.weight", "weights_proj" -> "...indexer.weights_proj.weight"
std::string beside(const std::string& tensor, const std::string& module) {
  const std::string parent = module_of(tensor);
  return module_of(parent.substr(0, parent.size() - 1)) + module + "." + last_of(tensor);
}

Defect gone(const char* name, const char* pattern) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto tensor = c.first(pattern);
            if (!tensor) return std::nullopt;
            c.erase_module(*tensor);
            return refused(kMissing, *tensor, {*tensor});
          }};
}

/// A tensor of this name in the folder of layer 0's `module`, like one that belongs there.
Defect extra(const char* name, const char* pattern, const char* spelling) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto tensor = c.first(pattern);
            if (!tensor) return std::nullopt;
            const std::string module = module_of(*tensor);
            const std::string added = module_of(module.substr(0, module.size() - 1)) + spelling;
            c.add(added, "BF16", c.at(*tensor).shape);
            return refused(kUnexpected, added, {added});
          }};
}

Defect stray(const char* name, const std::string& tensor) {
  return {name, [=](Checkpoint& c) -> Result {
            c.add(tensor, "BF16", {2, 3});
            return refused(kUnexpected, tensor, {tensor});
          }};
}

/// The first tensor of a pattern in another shape.
Defect shaped(const char* name, const char* pattern,
              const std::function<std::vector<int64_t>(std::vector<int64_t>)>& reshape) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto tensor = c.first(pattern);
            if (!tensor) return std::nullopt;
            const std::vector<int64_t> before = c.at(*tensor).shape;
            const std::vector<int64_t> after = reshape(before);
            if (after == before) return std::nullopt;
            c.store_as(*tensor, c.at(*tensor).dtype, after);
            return refused(
                kShape, *tensor,
                {*tensor, fmt::format("[{}]", fmt::join(after, ", ")), std::to_string(before.front())});
          }};
}

/// The first tensor of a pattern in another type.
Defect typed(const char* name, const char* pattern, const char* dtype) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto tensor = c.first(pattern);
            if (!tensor || is_scale(*tensor)) return std::nullopt;
            c.store_as(*tensor, dtype, c.at(*tensor).shape);
            return refused(kType, *tensor, {*tensor, dtype});
          }};
}

/// A field of config.json one higher than the tensors of these patterns say.
Defect contradicted(const char* name, const char* field, std::initializer_list<const char*> patterns) {
  const std::vector<const char*> list = patterns;
  return {name, [=](Checkpoint& c) -> Result {
            if (c.number(field) == 0) return std::nullopt;
            std::vector<std::string> tensors;
            for (const char* pattern : list) {
              for (const std::string& tensor : c.all(pattern)) tensors.push_back(tensor);
            }
            if (tensors.empty()) return std::nullopt;
            c.set(field, std::to_string(c.number(field) + 1));
            return refused(kShape, tensors, {field});
          }};
}

std::vector<int64_t> one_row_more(std::vector<int64_t> shape) {
  ++shape.front();
  return shape;
}
std::vector<int64_t> transposed(std::vector<int64_t> shape) { return {shape.rbegin(), shape.rend()}; }

Result no_projection(Checkpoint& c) {
  const auto wk = c.first(kWk);
  if (!wk) return std::nullopt;
  const std::string name = *wk;
  const std::string proj = beside(name, "weights_proj");
  c.erase_module(name);
  c.erase_module(proj);
  const std::string fused = beside(name, "wk_weights_proj");
  return refused(kMissing, name, {name + " and " + proj + " are missing", "nor " + fused});
}

/// Fields that decide no tensor's name or shape hide nothing of what is wrong with tensors.
Result faults_of_the_config_too(Checkpoint& c) {
  const auto wk = c.first(kWk);
  const std::string gone = wk ? beside(*wk, "weights_proj") : std::string("model.norm.weight");
  c.erase_module(gone);
  Expected expected = refused(kMissing, gone);
  const auto fault = [&](ErrorKind kind, const char* field, const char* value) {
    c.set(field, value);
    expected.problems.push_back(problem(kind, field));
  };
  fault(ErrorKind::kUnsupported, "hidden_act", "\"gelu\"");
  fault(ErrorKind::kUnsupported, "scoring_func", "\"softmax\"");
  fault(ErrorKind::kBadConfig, "rope_theta", "-1");
  fault(ErrorKind::kBadConfig, "rms_norm_eps", "0");
  fault(ErrorKind::kBadConfig, "bos_token_id", "-5");
  return expected;
}

Result pair_beside_fused(Checkpoint& c) {
  const auto fused = c.first(kFused);
  if (!fused) return std::nullopt;
  const std::string wk = beside(*fused, "wk");
  const std::string proj = beside(*fused, "weights_proj");
  const int64_t width = c.number("index_head_dim");
  c.add(wk, "BF16", {width, c.at(*fused).shape.back()});
  c.add(proj, "BF16", {c.at(*fused).shape.front() - width, c.at(*fused).shape.back()});
  return refused(kConflict, wk, {wk, proj, *fused});
}

/// Beside what is left of the pair without `erased`, which may be empty.
Result fused_beside(Checkpoint& c, const std::string& erased) {
  const auto wk = c.first(kWk);
  if (!wk) return std::nullopt;
  const std::string fused = beside(*wk, "wk_weights_proj");
  c.add(fused, "BF16", {c.at(*wk).shape.front() + c.number("index_n_heads"), c.at(*wk).shape.back()});
  const std::string wk_name = *wk;
  if (!erased.empty()) c.erase_module(beside(wk_name, erased));
  const std::string left = erased == "wk" ? beside(wk_name, "weights_proj") : wk_name;
  return refused(kConflict, left, {left, fused});
}

/// Both ways to make the query.
Result query_twice(Checkpoint& c) {
  const int64_t heads = c.number("num_attention_heads");
  const int64_t head_dim = c.number("qk_nope_head_dim") + c.number("qk_rope_head_dim");
  const int64_t hidden = c.number("hidden_size");
  if (const auto direct = c.first("model.layers.*.self_attn.q_proj.weight")) {
    const std::string latent = beside(*direct, "q_a_proj");
    c.add(latent, "BF16", {8, hidden});
    return refused(kConflict, *direct, {*direct, latent});
  }
  const std::string latent = *c.first("model.layers.*.self_attn.q_a_proj.weight");
  const std::string direct = beside(latent, "q_proj");
  c.add(direct, "BF16", {heads * head_dim, hidden});
  return refused(kConflict, latent, {latent, direct});
}

/// A config of more experts than there are.
Result more_experts(Checkpoint& c) {
  const int64_t experts = c.number("n_routed_experts");
  const int64_t more = std::max<int64_t>(c.number("n_group"), 1);
  c.set("n_routed_experts", std::to_string(experts + more));
  Expected expected = refused(kShape, c.all("model.layers.*.mlp.gate.**"), {"n_routed_experts"});
  for (const std::string& router : c.all("model.layers.*.mlp.gate.weight")) {
    for (int64_t e = experts; e < experts + more; ++e) {
      for (const char* part : {"gate_proj", "up_proj", "down_proj"})
        expected.problems.push_back(problem(kMissing, beside(router, fmt::format("experts.{}.{}", e, part))));
    }
  }
  return expected;
}

Result dense_config(Checkpoint& c) {
  const auto first = c.first("model.layers.*.self_attn.indexer.**");
  if (!first) return std::nullopt;
  c.set("model_type", "\"deepseek_v3\"");
  c.set("architectures", std::nullopt);
  return refused(ErrorKind::kBadConfig, "model_type", {*first});
}

/// A model that has an indexer, and none of one layer's tensors of it.
Result no_indexer(Checkpoint& c) {
  const auto key_norm = c.first("model.layers.*.self_attn.indexer.k_norm.weight");
  if (!key_norm) return std::nullopt;
  const std::string indexer = module_of(beside(*key_norm, ""));
  for (const std::string& tensor : c.all(indexer.substr(0, indexer.size() - 1) + "**")) c.erase(tensor);
  const std::string prefix = module_of(module_of(*key_norm).substr(0, module_of(*key_norm).size() - 1));
  return refused(
      kMissing,
      {prefix + "k_norm.bias", prefix + "k_norm.weight", prefix + "wk.weight", prefix + "wq_b.weight"},
      {prefix + "wk_weights_proj.weight"});
}

/// A weight by both names that a storage form may give it.
Result weight_twice(Checkpoint& c) {
  if (const auto packed = c.first("model.layers.*.mlp.experts.*.up_proj.weight_packed")) {
    const std::string plain = module_of(*packed) + "weight";
    c.add(plain, "BF16", {c.at(*packed).shape.front(), 2 * c.at(*packed).shape.back()});
    return refused(kConflict, plain, {plain, *packed});
  }
  const std::string plain = *c.first("model.layers.*.mlp.experts.*.up_proj.weight");
  const std::string packed = module_of(plain) + "weight_packed";
  c.add(packed, "U8", {c.at(plain).shape.front(), c.number("hidden_size") / 2});
  return refused(kConflict, plain, {plain, packed});
}

/// JSON escapes what a name holds; a message must, too.
Result name_that_colors_the_terminal(Checkpoint& c) {
  const std::string placeholder = "colors";
  c.remove_index();
  c.add(placeholder, "BF16", {1});
  c.edit_header(c.files().back(), [=](std::string& header) {
    header.replace(header.find(placeholder), placeholder.size(), R"(wk\u001b[31m.weight)");
  });
  return refused(kUnexpected, "wk\x1b[31m.weight", {R"(wk\x1b[31m.weight)"});
}

}  // namespace

std::vector<Defect> tensor_defects() {
  return {
      gone("no embedding", "model.embed_tokens.weight"),
      gone("no head", "lm_head.weight"),
      gone("no last norm", "model.norm.weight"),
      gone("no norm of a layer", "model.layers.*.input_layernorm.weight"),
      gone("no attention output", kOutput),
      gone("no router", "model.layers.*.mlp.gate.weight"),
      gone("no router bias", "model.layers.*.mlp.gate.e_score_correction_bias"),
      gone("no expert's up_proj", "model.layers.*.mlp.experts.1.up_proj.weight"),
      gone("no shared expert's down_proj", "model.layers.*.mlp.shared_experts.down_proj.weight"),
      gone("no key norm's bias", "model.layers.*.self_attn.indexer.k_norm.bias"),
      gone("no indexer query", "model.layers.*.self_attn.indexer.wq_b.weight"),
      {"wk without weights_proj",
       [](Checkpoint& c) -> Result {
         const auto wk = c.first(kWk);
         if (!wk) return std::nullopt;
         const std::string proj = beside(*wk, "weights_proj");
         c.erase_module(proj);
         return refused(kMissing, proj, {proj, *wk});
       }},
      {"weights_proj without wk",
       [](Checkpoint& c) -> Result {
         const auto wk = c.first(kWk);
         if (!wk) return std::nullopt;
         c.erase_module(*wk);
         return refused(kMissing, *wk, {*wk, beside(*wk, "weights_proj")});
       }},
      {"neither the pair nor the fused tensor", no_projection},
      {"half a pair under a config of five faults", faults_of_the_config_too},
      {"no indexer in one layer", no_indexer},
      {"a dense config beside an indexer", dense_config},
      {"the pair beside the fused tensor", pair_beside_fused},
      {"the fused tensor beside the pair", [](Checkpoint& c) { return fused_beside(c, ""); }},
      {"the fused tensor beside wk alone", [](Checkpoint& c) { return fused_beside(c, "weights_proj"); }},
      {"the fused tensor beside weights_proj alone", [](Checkpoint& c) { return fused_beside(c, "wk"); }},
      {"a query of both kinds", query_twice},
      {"a weight plain and packed", weight_twice},
      shaped("an embedding of a row more", "model.embed_tokens.weight", one_row_more),
      shaped("an output projection transposed", kOutput, transposed),
      shaped("a wk transposed", kWk, transposed),
      shaped("a fused tensor without weights_proj's rows", kFused,
             [](std::vector<int64_t> shape) {
               shape.front() -= shape.front() % 64;
               return shape;
             }),
      shaped("a router bias as a matrix", "model.layers.*.mlp.gate.e_score_correction_bias",
             [](const std::vector<int64_t>& shape) {
               return std::vector<int64_t>{1, shape.front()};
             }),
      shaped("a norm of a number", "model.norm.weight",
             [](const std::vector<int64_t>&) { return std::vector<int64_t>{}; }),
      shaped("an output projection of no rows", kOutput,
             [](const std::vector<int64_t>& shape) {
               return std::vector<int64_t>{0, shape.back()};
             }),
      shaped("an output projection of three dimensions", kOutput,
             [](const std::vector<int64_t>& shape) {
               return std::vector<int64_t>{shape.front(), shape.back(), 1};
             }),
      contradicted("a larger vocabulary in the config", "vocab_size",
                   {"model.embed_tokens.weight", "lm_head.weight", "model.layers.*.embed_tokens.weight",
                    "model.layers.*.shared_head.head.weight"}),
      contradicted(
          "a larger latent in the config", "kv_lora_rank",
          {"model.layers.*.self_attn.kv_a_proj_with_mqa.weight",
           "model.layers.*.self_attn.kv_a_layernorm.weight", "model.layers.*.self_attn.kv_b_proj.weight"}),
      contradicted("another shared expert in the config", "n_shared_experts",
                   {"model.layers.*.mlp.shared_experts.gate_proj.weight",
                    "model.layers.*.mlp.shared_experts.up_proj.weight",
                    "model.layers.*.mlp.shared_experts.down_proj.weight",
                    "model.layers.*.mlp.shared_experts.gate_proj.weight_packed",
                    "model.layers.*.mlp.shared_experts.up_proj.weight_packed",
                    "model.layers.*.mlp.shared_experts.down_proj.weight_packed"}),
      {"more experts in the config", more_experts},
      typed("an embedding of integers", "model.embed_tokens.weight", "I32"),
      typed("an embedding in FP8", "model.embed_tokens.weight", "F8_E4M3"),
      typed("a norm in U8", "model.norm.weight", "U8"),
      typed("a router in FP8", "model.layers.*.mlp.gate.weight", "F8_E4M3"),
      typed("a router bias in F64", "model.layers.*.mlp.gate.e_score_correction_bias", "F64"),
      typed("a key norm in FP8", "model.layers.*.self_attn.indexer.k_norm.weight", "F8_E4M3"),
      typed("an output projection in the other FP8", kOutput, "F8_E5M2"),
      typed("an output projection of a type that nobody knows", kOutput, "Q4_0"),
      extra("a wk_extra", kWk, "wk_extra.weight"),
      extra("a mywk", kWk, "mywk.weight"),
      extra("what renaming by substring makes of wk", kFused, "wk_weights_proj_weights_proj.weight"),
      extra("a module that only an ignore list names", "model.layers.*.self_attn.indexer.wq_b.weight",
            "indexers_proj.weight"),
      extra("a fused gate and up", "model.layers.*.mlp.gate_proj.weight", "gate_up_proj.weight"),
      extra("a fused latent", "model.layers.*.self_attn.kv_a_proj_with_mqa.weight",
            "fused_qkv_a_proj.weight"),
      extra("stacked experts", "model.layers.*.mlp.gate.weight", "experts.down_proj.weight"),
      extra("an expert beyond the last", "model.layers.*.mlp.gate.weight", "experts.8.up_proj.weight"),
      extra("an expert whose number is spelled otherwise", "model.layers.*.mlp.gate.weight",
            "experts.01.up_proj.weight"),
      stray("a layer whose number is spelled otherwise", "model.layers.00.self_attn.o_proj.weight"),
      stray("a name of one component", "wk"),
      stray("a name of nothing", ""),
      stray("a bias that this family has not", "lm_head.bias"),
      {"a name that colors the terminal", name_that_colors_the_terminal},
  };
}

}  // namespace fulgur
