#include "model/weights.h"

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace fulgur {
namespace {

/// Begins the names of a module's tensors.
struct Module {
  std::string name;
  [[nodiscard]] Module operator/(std::string_view child) const { return {fmt::format("{}.{}", name, child)}; }
};

Module layer_module(int64_t layer) { return {fmt::format("model.layers.{}", layer)}; }

/// Whether published checkpoints may store a matrix as FP8 or FP4 (docs/spec/checkpoints.md, section 3).
enum class Storage { kPlainOnly, kQuantizable };

/// Declares parameters one by one. Norms and biases are held in f32: they are tiny, and kernels need read no
/// other form. Matrices that are made at load (the fused projection, UK and UV) are held in bf16, or f32 in
/// full precision, and so is a quantized matrix that the back end doesn't read; all others stay as they are
/// stored, which is exact in both.
class Declarations {
 public:
  Declarations(const Config& config, Precision precision)
      : c_(config), made_(precision == Precision::kFull ? WeightForm::kF32 : WeightForm::kBf16) {}

  std::vector<Slot> take() && { return std::move(slots_); }

  void embedding(Weight& slot, const Module& module) { matrix(slot, module, vocab(), hidden()); }

  void norm(Weight& slot, const Module& module, Dim width) {
    vector(slot, module, module.name + ".weight", std::move(width));
  }

  void matrix(Weight& slot, const Module& module, Dim rows, Dim cols, Storage storage = Storage::kPlainOnly,
              std::vector<std::string> rivals = {}) {
    add(slot, {.name = module.name,
               .rows = rows.size,
               .cols = cols.size,
               .spellings = {{{module.name + ".weight", {rows, cols}}}},
               .held_as = {made_, WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32, WeightForm::kFp8,
                           WeightForm::kNvfp4},
               .quantizable = storage == Storage::kQuantizable,
               .rivals = std::move(rivals)});
  }

  /// A whole decoder layer; the MTP layer holds one too.
  void layer(LayerWeights& weights, const Module& module, bool indexer, bool moe) {
    norm(weights.input_norm, module / "input_layernorm", hidden());
    attention(weights.mla, module / "self_attn");
    if (indexer) this->indexer(weights.indexer, module / "self_attn.indexer");
    norm(weights.post_attention_norm, module / "post_attention_layernorm", hidden());
    if (moe) {
      experts(weights, module / "mlp");
    } else {
      ffn(weights.ffn, module / "mlp", {c_.intermediate_size, "intermediate_size"});
    }
  }

  [[nodiscard]] Dim hidden() const { return {c_.hidden_size, "hidden_size"}; }
  [[nodiscard]] Dim vocab() const { return {c_.vocab_size, "vocab_size"}; }

 private:
  void add(Weight& slot, Parameter parameter) { slots_.push_back({std::move(parameter), &slot}); }

  void vector(Weight& slot, const Module& module, std::string tensor, Dim width) {
    add(slot, {.name = module.name,
               .rows = 1,
               .cols = width.size,
               .spellings = {{{std::move(tensor), {width}}}},
               .held_as = {WeightForm::kF32}});
  }

  void attention(MlaWeights& weights, const Module& module) {
    const Dim q_lora{c_.q_lora_rank, "q_lora_rank"};
    const Dim queries{c_.num_attention_heads * (c_.qk_nope_head_dim + c_.qk_rope_head_dim),
                      "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)"};
    if (c_.q_lora_rank != 0) {
      matrix(weights.q_a, module / "q_a_proj", q_lora, hidden(), Storage::kQuantizable,
             {(module / "q_proj.weight").name});
      norm(weights.q_a_norm, module / "q_a_layernorm", q_lora);
      matrix(weights.q_b, module / "q_b_proj", queries, q_lora, Storage::kQuantizable);
    } else {
      matrix(weights.q_b, module / "q_proj", queries, hidden(), Storage::kQuantizable,
             {(module / "q_a_proj.weight").name});
    }
    const Dim kv_lora{c_.kv_lora_rank, "kv_lora_rank"};
    matrix(weights.kv_a, module / "kv_a_proj_with_mqa",
           {c_.kv_lora_rank + c_.qk_rope_head_dim, "kv_lora_rank + qk_rope_head_dim"}, hidden(),
           Storage::kQuantizable);
    norm(weights.kv_a_norm, module / "kv_a_layernorm", kv_lora);
    kv_b(weights, module / "kv_b_proj");
    matrix(weights.o, module / "o_proj", hidden(),
           {c_.num_attention_heads * c_.v_head_dim, "num_attention_heads * v_head_dim"},
           Storage::kQuantizable);
  }

  /// kv_b_proj, taken apart for the absorbed form (docs/spec/model.md, section 3).
  void kv_b(MlaWeights& weights, const Module& module) {
    const int64_t heads = c_.num_attention_heads;
    Parameter part{.spellings = {{{module.name + ".weight",
                                   {{heads * (c_.qk_nope_head_dim + c_.v_head_dim),
                                     "num_attention_heads * (qk_nope_head_dim + v_head_dim)"},
                                    {c_.kv_lora_rank, "kv_lora_rank"}}}}},
                   .held_as = {made_},
                   .quantizable = true,
                   .num_heads = heads,
                   .nope = c_.qk_nope_head_dim,
                   .value = c_.v_head_dim};
    part.name = (module / "uk").name;
    part.arrangement = Arrangement::kUkTransposed;
    part.rows = heads * c_.kv_lora_rank;
    part.cols = c_.qk_nope_head_dim;
    add(weights.uk, part);
    part.name = (module / "uv").name;
    part.arrangement = Arrangement::kUv;
    part.rows = heads * c_.v_head_dim;
    part.cols = c_.kv_lora_rank;
    add(weights.uv, std::move(part));
  }

  void indexer(IndexerWeights& weights, const Module& module) {
    const Dim head_dim{c_.index_head_dim, "index_head_dim"};
    const Dim heads{c_.index_n_heads, "index_n_heads"};
    const Dim both{head_dim.size + heads.size, "index_head_dim + index_n_heads"};
    const auto tensor = [&](std::string_view name) { return fmt::format("{}.{}.weight", module.name, name); };
    add(weights.wk_weights_proj,
        {.name = (module / "wk_weights_proj").name,
         .rows = both.size,
         .cols = c_.hidden_size,
         .spellings = {{{tensor("wk"), {head_dim, hidden()}}, {tensor("weights_proj"), {heads, hidden()}}},
                       {{tensor("wk_weights_proj"), {both, hidden()}}}},
         .held_as = {made_},
         .quantizable = true});
    norm(weights.k_norm_gain, module / "k_norm", head_dim);
    const Module bias = module / "k_norm.bias";
    vector(weights.k_norm_bias, bias, bias.name, head_dim);
    matrix(weights.wq_b, module / "wq_b",
           {c_.index_n_heads * c_.index_head_dim, "index_n_heads * index_head_dim"},
           {c_.q_lora_rank, "q_lora_rank"}, Storage::kQuantizable);
  }

  void ffn(FfnWeights& weights, const Module& module, const Dim& width) {
    matrix(weights.gate, module / "gate_proj", width, hidden(), Storage::kQuantizable);
    matrix(weights.up, module / "up_proj", width, hidden(), Storage::kQuantizable);
    matrix(weights.down, module / "down_proj", hidden(), width, Storage::kQuantizable);
  }

  void experts(LayerWeights& weights, const Module& module) {
    const Dim num_experts{c_.n_routed_experts, "n_routed_experts"};
    matrix(weights.router, module / "gate", num_experts, hidden());
    const Module bias = module / "gate.e_score_correction_bias";
    vector(weights.correction_bias, bias, bias.name, num_experts);
    const Dim width{c_.moe_intermediate_size, "moe_intermediate_size"};
    weights.experts.resize(static_cast<size_t>(num_experts.size));
    for (size_t e = 0; e < weights.experts.size(); ++e) {
      ffn(weights.experts[e], module / fmt::format("experts.{}", e), width);
    }
    if (c_.n_shared_experts == 0) return;
    ffn(weights.shared, module / "shared_experts",
        {c_.n_shared_experts * width.size, "n_shared_experts * moe_intermediate_size"});
  }

  const Config& c_;
  WeightForm made_;
  std::vector<Slot> slots_;
};

}  // namespace

std::vector<Slot> main_slots(const Config& config, Precision precision, ModelWeights& weights) {
  Declarations declare(config, precision);
  declare.embedding(weights.embed, {"model.embed_tokens"});
  weights.layers.resize(static_cast<size_t>(config.num_hidden_layers));
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    declare.layer(weights.layers[i], layer_module(static_cast<int64_t>(i)),
                  config.sparse() && config.full_indexer[i], config.moe_layer[i]);
  }
  declare.norm(weights.norm, {"model.norm"}, declare.hidden());
  if (!config.tie_word_embeddings) declare.embedding(weights.head, {"lm_head"});
  return std::move(declare).take();
}

std::vector<Slot> mtp_slots(const Config& config, Precision precision, ModelWeights& weights, bool has_embed,
                            bool has_head) {
  Declarations declare(config, precision);
  MtpWeights& mtp = weights.mtp;
  const Module module = layer_module(config.num_hidden_layers);
  if (has_embed) declare.embedding(mtp.embed, module / "embed_tokens");
  declare.norm(mtp.enorm, module / "enorm", declare.hidden());
  declare.norm(mtp.hnorm, module / "hnorm", declare.hidden());
  declare.matrix(mtp.eh_proj, module / "eh_proj", declare.hidden(),
                 {2 * config.hidden_size, "2 * hidden_size"});
  declare.layer(mtp.layer, module, config.sparse(), /*moe=*/true);
  declare.norm(mtp.norm, module / "shared_head.norm", declare.hidden());
  if (has_head) declare.embedding(mtp.head, module / "shared_head.head");
  return std::move(declare).take();
}

void share_weights(ModelWeights& weights) {
  if (!weights.head.present()) weights.head = weights.embed;
  if (!weights.mtp.embed.present()) weights.mtp.embed = weights.embed;
  if (!weights.mtp.head.present()) weights.mtp.head = weights.head;
}

std::vector<IgnoreRule> ignore_rules(const Config& config, bool with_mtp) {
  std::vector<IgnoreRule> rules = {{"rotary tables", "**.rotary_emb.inv_freq"}};
  for (const std::string_view scale : {"k_scale", "v_scale", "kv_scale", "q_scale"}) {
    rules.push_back({"scales of a quantized cache", fmt::format("model.layers.*.self_attn.**.{}", scale)});
  }
  for (size_t i = 0; i < config.full_indexer.size(); ++i) {
    if (config.full_indexer[i]) continue;
    rules.push_back({"indexer of a layer that shares another's selection",
                     fmt::format("model.layers.{}.self_attn.indexer.**", i)});
  }
  const int64_t num_used = config.num_hidden_layers + (with_mtp ? 1 : 0);
  rules.push_back(
      {with_mtp ? "layers beyond the one for multi-token prediction" : "layers beyond num_hidden_layers",
       fmt::format("model.layers.>={}.**", num_used)});
  return rules;
}

}  // namespace fulgur
