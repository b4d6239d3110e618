#include "property/draw_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace fulgur::property {
namespace {

constexpr std::string_view kFamilies[] = {"deepseek_v3", "deepseek_v32", "glm_moe_dsa"};
constexpr double kTheta = 10000;
constexpr double kYarnFactor = 40;
constexpr int64_t kYarnLength = 4096;
constexpr double kScaling = 2.5;
constexpr double kSmallEps = 1e-6;
constexpr double kLargeEps = 1e-5;

/// Mostly a multiple of 16, which NVFP4 needs; else any number.
int64_t draw_width(const Pick& pick, int64_t least, int64_t most) {
  const int64_t width = 16 * pick((least + 15) / 16, most / 16);
  return pick(0, 3) == 3 ? width + pick(1, 15) : width;
}

/// Sometimes more columns than kernels sum at once.
int64_t draw_long_width(const Pick& pick, int64_t least, int64_t most) {
  return pick(0, 7) == 7 ? draw_width(pick, 512, 656) : draw_width(pick, least, most);
}

void draw_experts(const Pick& pick, ModelDraw& d) {
  d.num_groups = pick(1, 3);
  d.group_size = d.num_groups > 1 ? pick(2, 3) : pick(1, 6);
  d.groups_kept = pick(1, d.num_groups);
  d.experts_per_token = pick(1, std::min<int64_t>(4, d.groups_kept * d.group_size));
  d.shared_experts = pick(0, 2);
  d.normalize = pick(0, 1) == 1;
  d.scaled = pick(0, 1) == 1;
  d.moe_intermediate = draw_width(pick, 16, 144);
  d.moe_spelling = pick(0, 2);
  const int64_t layers = d.moe_spelling == 0 ? pick(0, (1 << d.num_layers) - 1) : pick(0, d.num_layers);
  for (int64_t i = 0; i < d.num_layers; ++i) {
    bool moe = (layers >> i & 1) != 0;  // mlp_layer_types: any of them
    if (d.moe_spelling == 1) moe = i % (layers + 1) == 0;
    if (d.moe_spelling == 2) moe = i >= layers;
    d.moe_layer.push_back(moe);
  }
}

void draw_indexer(const Pick& pick, ModelDraw& d) {
  const int64_t head_dims[] = {64, 128, draw_width(pick, 16, 144)};
  d.index_head_dim = head_dims[pick(0, 2)];
  d.index_heads = pick(1, 5);
  d.index_topk = pick(1, 10);
  d.indexer_interleave = pick(0, 2);
  d.indexer_spelling = pick(0, 3);
  d.index_freq = pick(1, 3);
  d.index_offset = pick(1, 3);  // of 0, layer 0 would have no indexer
  const int64_t shared = pick(0, (1 << d.num_layers) - 1) & ~int64_t{1};
  for (int64_t i = 0; i < d.num_layers; ++i) {
    bool full = (shared >> i & 1) == 0;
    if (d.indexer_spelling == 0) full = true;
    if (d.indexer_spelling == 3) full = std::max<int64_t>(i - d.index_offset + 1, 0) % d.index_freq == 0;
    d.full_indexer.push_back(full);
  }
}

std::string quoted_list(const std::vector<bool>& layers, std::string_view yes, std::string_view no) {
  std::vector<std::string> words;
  for (const bool layer : layers) words.push_back(fmt::format("\"{}\"", layer ? yes : no));
  return fmt::format("[{}]", fmt::join(words, ", "));
}

std::string letters(const std::vector<bool>& layers, char yes, char no) {
  std::string text;
  for (const bool layer : layers) text += layer ? yes : no;
  return text;
}

void add_moe_spelling(const ModelDraw& d, std::vector<std::string>& fields) {
  const auto moe = std::find(d.moe_layer.begin(), d.moe_layer.end(), true);
  const auto first = moe - d.moe_layer.begin();
  if (d.moe_spelling == 0) {
    fields.push_back(fmt::format(R"("mlp_layer_types": {})", quoted_list(d.moe_layer, "sparse", "dense")));
  } else if (d.moe_spelling == 1) {
    const auto second = moe == d.moe_layer.end() ? moe : std::find(moe + 1, d.moe_layer.end(), true);
    fields.push_back(R"("first_k_dense_replace": 0)");
    fields.push_back(fmt::format(R"("moe_layer_freq": {})", second - d.moe_layer.begin()));
  } else {
    fields.push_back(fmt::format(R"("first_k_dense_replace": {})", first));
  }
}

void add_indexer(const ModelDraw& d, std::vector<std::string>& fields) {
  fields.push_back(fmt::format(R"("index_n_heads": {})", d.index_heads));
  fields.push_back(fmt::format(R"("index_head_dim": {})", d.index_head_dim));
  fields.push_back(fmt::format(R"("index_topk": {})", d.index_topk));
  if (d.indexer_interleave != 0)
    fields.push_back(fmt::format(R"("indexer_rope_interleave": {})", d.indexer_interleave == 1));
  if (d.indexer_spelling == 1)
    fields.push_back(fmt::format(R"("indexer_types": {})", quoted_list(d.full_indexer, "full", "shared")));
  if (d.indexer_spelling == 2)
    fields.push_back(fmt::format(R"("index_topk_pattern": "{}")", letters(d.full_indexer, 'F', 'S')));
  if (d.indexer_spelling == 3) {
    fields.push_back(fmt::format(R"("index_topk_freq": {})", d.index_freq));
    fields.push_back(fmt::format(R"("index_skip_topk_offset": {})", d.index_offset));
  }
}

/// The tensors of a decoder layer, one after the other.
class TensorList {
 public:
  explicit TensorList(const ModelDraw& draw) : d_(draw) {}

  void add(const std::string& name, Role role, int64_t rows, int64_t cols) {
    tensors_.push_back({name, rows, cols, role, {}});
  }
  void add_norm(const std::string& module, int64_t size) { add(module + ".weight", Role::kNorm, 1, size); }
  void add_projection(const std::string& module, int64_t rows, int64_t cols) {
    add(module + ".weight", Role::kProjection, rows, cols);
  }

  void add_layer(int64_t index, bool indexer, bool moe) {
    const std::string layer = fmt::format("model.layers.{}.", index);
    add_norm(layer + "input_layernorm", d_.hidden);
    add_attention(layer + "self_attn.");
    if (indexer) add_indexer(layer + "self_attn.indexer.");
    add_norm(layer + "post_attention_layernorm", d_.hidden);
    if (!moe) return add_ffn(layer + "mlp.", d_.intermediate);
    add(layer + "mlp.gate.weight", Role::kMatrix, d_.num_experts(), d_.hidden);
    add(layer + "mlp.gate.e_score_correction_bias", Role::kBias, 1, d_.num_experts());
    for (int64_t e = 0; e < d_.num_experts(); ++e)
      add_ffn(fmt::format("{}mlp.experts.{}.", layer, e), d_.moe_intermediate);
    if (d_.shared_experts > 0)
      add_ffn(layer + "mlp.shared_experts.", d_.shared_experts * d_.moe_intermediate);
  }

  void add_mtp() {
    const std::string layer = fmt::format("model.layers.{}.", d_.num_layers);
    add_layer(d_.num_layers, d_.sparse(), /*moe=*/true);
    add_norm(layer + "enorm", d_.hidden);
    add_norm(layer + "hnorm", d_.hidden);
    add(layer + "eh_proj.weight", Role::kMatrix, d_.hidden, 2 * d_.hidden);
    add_norm(layer + "shared_head.norm", d_.hidden);
    if (d_.mtp == Mtp::kBare) return;
    add(layer + "embed_tokens.weight", Role::kMatrix, d_.vocab, d_.hidden);
    add(layer + "shared_head.head.weight", Role::kMatrix, d_.vocab, d_.hidden);
  }

  std::vector<LogicalTensor> take() { return std::move(tensors_); }

 private:
  void add_attention(const std::string& attention) {
    const int64_t queries = d_.num_heads * (d_.nope + d_.rope);
    if (d_.q_lora > 0) {
      add_projection(attention + "q_a_proj", d_.q_lora, d_.hidden);
      add_norm(attention + "q_a_layernorm", d_.q_lora);
      add_projection(attention + "q_b_proj", queries, d_.q_lora);
    } else {
      add_projection(attention + "q_proj", queries, d_.hidden);
    }
    add_projection(attention + "kv_a_proj_with_mqa", d_.kv_lora + d_.rope, d_.hidden);
    add_norm(attention + "kv_a_layernorm", d_.kv_lora);
    add_projection(attention + "kv_b_proj", d_.num_heads * (d_.nope + d_.value), d_.kv_lora);
    add_projection(attention + "o_proj", d_.hidden, d_.num_heads * d_.value);
  }

  void add_indexer(const std::string& indexer) {
    add_projection(indexer + "wk", d_.index_head_dim, d_.hidden);
    add_projection(indexer + "weights_proj", d_.index_heads, d_.hidden);
    add_norm(indexer + "k_norm", d_.index_head_dim);
    add(indexer + "k_norm.bias", Role::kBias, 1, d_.index_head_dim);
    add_projection(indexer + "wq_b", d_.index_heads * d_.index_head_dim, d_.q_lora);
  }

  void add_ffn(const std::string& ffn, int64_t width) {
    add_projection(ffn + "gate_proj", width, d_.hidden);
    add_projection(ffn + "up_proj", width, d_.hidden);
    add_projection(ffn + "down_proj", d_.hidden, width);
  }

  const ModelDraw& d_;
  std::vector<LogicalTensor> tensors_;
};

/// Norms near 1; matrices that keep the size of what they multiply. A matrix's values are mostly small, so
/// that formats show their subnormals, and its blocks differ, so that no scale does for another.
void fill(LogicalTensor& tensor, uint64_t seed) {
  Numbers numbers(seed, tensor.name);
  const bool matrix = tensor.role == Role::kProjection || tensor.role == Role::kMatrix;
  constexpr int64_t kBand = 16;  // of rows and columns that are of one size
  std::vector<double> row_size;
  std::vector<double> col_size;
  const auto size = [&] { return numbers.next() % 32 == 0 ? 0.0 : std::exp2(4 * numbers.uniform() - 2); };
  for (int64_t r = 0; matrix && r < tensor.rows; r += kBand) row_size.push_back(size());
  for (int64_t c = 0; matrix && c < tensor.cols; c += kBand) col_size.push_back(size());
  const double gain = 1.5 / std::sqrt(static_cast<double>(tensor.cols));
  for (int64_t i = 0; i < tensor.rows * tensor.cols; ++i) {
    const double u = 2 * numbers.uniform() - 1;
    double value = tensor.role == Role::kNorm ? 1 + 0.5 * u : 0.2 * u;
    if (matrix) {
      value = gain * u * u * u * row_size[static_cast<size_t>(i / tensor.cols / kBand)] *
              col_size[static_cast<size_t>(i % tensor.cols / kBand)];
    }
    tensor.values.push_back(value);
  }
}

uint64_t seed_of(const ModelDraw& draw, int attempt) {
  return static_cast<uint64_t>(draw.values) * 1000 + static_cast<uint64_t>(attempt);
}

uint64_t hashed(uint64_t seed, const std::string& purpose) {
  for (const char c : purpose) seed = (seed ^ static_cast<unsigned char>(c)) * 0x100000001b3U;  // FNV-1a
  return seed;
}

}  // namespace

Numbers::Numbers(uint64_t seed, const std::string& purpose) : words_(hashed(seed, purpose)) {}

double Numbers::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

ModelDraw draw_model(const Pick& pick) {
  ModelDraw d;
  d.family = static_cast<Family>(pick(0, 2));
  d.num_layers = pick(1, 3);
  d.hidden = draw_width(pick, 16, 288);
  d.vocab = draw_width(pick, 16, 48);
  d.num_heads = pick(1, 3);
  d.q_lora = draw_long_width(pick, 16, 160);
  if (!d.sparse() && pick(0, 1) == 0) d.q_lora = 0;
  d.kv_lora = draw_width(pick, 16, 160);
  d.nope = draw_width(pick, 16, 64);
  d.rope = 2 * pick(1, 8);
  d.value = draw_width(pick, 16, 64);
  d.intermediate = draw_long_width(pick, 16, 160);
  draw_experts(pick, d);
  if (d.sparse()) draw_indexer(pick, d);
  d.rope_spelling = pick(0, 2);
  d.rope_interleave = pick(0, 2);
  d.large_eps = pick(0, 1) == 1;
  d.tied = pick(0, 3) == 3;
  d.mtp = static_cast<Mtp>(pick(0, 4));
  d.num_tokens = pick(2, 20);
  d.values = pick(0, 1'000'000);
  return d;
}

std::string in_words(const ModelDraw& d) {
  constexpr std::string_view kMtps[] = {"none", "without copies", "with copies", "asked for but absent",
                                        "there but not asked for"};
  std::string text = fmt::format(
      "{}: {} layers (moe {}), d {}, V {}, h {}, q {}, r {}, dn {}, dr {}, dv {}, I {}, Im {}",
      kFamilies[static_cast<size_t>(d.family)], d.num_layers, letters(d.moe_layer, 'M', '-'), d.hidden,
      d.vocab, d.num_heads, d.q_lora, d.kv_lora, d.nope, d.rope, d.value, d.intermediate, d.moe_intermediate);
  text += fmt::format("\n  experts: {} in {} groups, {} groups kept, {} a token, {} shared", d.num_experts(),
                      d.num_groups, d.groups_kept, d.experts_per_token, d.shared_experts);
  if (d.sparse()) {
    text += fmt::format("\n  indexer: {} heads of {}, top {}, layers {}", d.index_heads, d.index_head_dim,
                        d.index_topk, letters(d.full_indexer, 'F', 'S'));
  }
  text += fmt::format("\n  MTP {}, {}{} tokens, values {}", kMtps[static_cast<size_t>(d.mtp)],
                      d.tied ? "tied head, " : "", d.num_tokens, d.values);
  return text + fmt::format("\n  config: {}", fmt::join(config_fields(d), ", "));
}

std::vector<std::string> config_fields(const ModelDraw& d) {
  std::vector<std::string> fields;
  const auto add = [&](std::string_view name, int64_t value) {
    fields.push_back(fmt::format("\"{}\": {}", name, value));
  };
  fields.push_back(fmt::format(R"("model_type": "{}")", kFamilies[static_cast<size_t>(d.family)]));
  add("vocab_size", d.vocab);
  add("hidden_size", d.hidden);
  add("intermediate_size", d.intermediate);
  add("moe_intermediate_size", d.moe_intermediate);
  add("num_hidden_layers", d.num_layers);
  add("num_attention_heads", d.num_heads);
  if (d.q_lora > 0) add("q_lora_rank", d.q_lora);
  add("kv_lora_rank", d.kv_lora);
  add("qk_nope_head_dim", d.nope);
  add("qk_rope_head_dim", d.rope);
  add("v_head_dim", d.value);
  add("n_routed_experts", d.num_experts());
  add("n_shared_experts", d.shared_experts);
  add("num_experts_per_tok", d.experts_per_token);
  add("n_group", d.num_groups);
  add("topk_group", d.groups_kept);
  fields.push_back(fmt::format(R"("norm_topk_prob": {})", d.normalize));
  fields.push_back(fmt::format(R"("routed_scaling_factor": {})", d.scaled ? kScaling : 1.0));
  add_moe_spelling(d, fields);
  if (d.sparse()) add_indexer(d, fields);
  if (d.rope_spelling == 0) fields.push_back(fmt::format(R"("rope_theta": {})", kTheta));
  if (d.rope_spelling == 1)
    fields.push_back(
        fmt::format(R"("rope_parameters": {{"rope_theta": {}, "rope_type": "default"}})", kTheta));
  if (d.rope_spelling == 2) {
    fields.push_back(
        fmt::format(R"("rope_theta": {}, "rope_scaling": {{"type": "yarn", "factor": {}, )"
                    R"("original_max_position_embeddings": {}, "beta_fast": 32, "beta_slow": 1, )"
                    R"("mscale": 1.0, "mscale_all_dim": 1.0}})",
                    kTheta, kYarnFactor, kYarnLength));
  }
  if (d.rope_interleave != 0)
    fields.push_back(fmt::format(R"("rope_interleave": {})", d.rope_interleave == 1));
  fields.push_back(fmt::format(R"("rms_norm_eps": {})", d.large_eps ? kLargeEps : kSmallEps));
  fields.push_back(fmt::format(R"("tie_word_embeddings": {})", d.tied));
  if (d.mtp != Mtp::kNone) add("num_nextn_predict_layers", d.mtp == Mtp::kStray ? 0 : 1);
  add("max_position_embeddings", 64);
  return fields;
}

reference::ModelConfig reference_config(const ModelDraw& d) {
  reference::ModelConfig config;
  config.eps = d.large_eps ? kLargeEps : kSmallEps;
  config.rope = {.theta = kTheta, .width = static_cast<int>(d.rope)};
  if (d.rope_spelling == 2)
    config.rope.yarn = reference::Yarn{.factor = kYarnFactor,
                                       .original_length = static_cast<double>(kYarnLength),
                                       .mscale = 1,
                                       .mscale_all_dim = 1};
  config.mla = {.num_heads = static_cast<int>(d.num_heads),
                .kv_lora = static_cast<int>(d.kv_lora),
                .nope = static_cast<int>(d.nope),
                .rope = static_cast<int>(d.rope),
                .value = static_cast<int>(d.value),
                .rope_interleave = d.rope_interleave != 2};
  if (d.sparse()) {
    const bool interleave =
        d.indexer_interleave == 0 ? d.family == Family::kGlmMoeDsa : d.indexer_interleave == 1;
    config.index_topk = static_cast<int>(d.index_topk);
    config.indexer = {.num_heads = static_cast<int>(d.index_heads),
                      .head_dim = static_cast<int>(d.index_head_dim),
                      .rope = static_cast<int>(d.rope),
                      .rope_interleave = interleave};
  }
  config.moe = {.experts_per_token = static_cast<int>(d.experts_per_token),
                .num_groups = static_cast<int>(d.num_groups),
                .groups_kept = static_cast<int>(d.groups_kept),
                .normalize = d.normalize,
                .scaling = d.scaled ? static_cast<float>(kScaling) : 1.0F};
  return config;
}

std::vector<LogicalTensor> logical_tensors(const ModelDraw& draw, int attempt) {
  TensorList list(draw);
  list.add("model.embed_tokens.weight", Role::kMatrix, draw.vocab, draw.hidden);
  for (int64_t i = 0; i < draw.num_layers; ++i) {
    const auto layer = static_cast<size_t>(i);
    list.add_layer(i, draw.sparse() && draw.full_indexer[layer], draw.moe_layer[layer]);
  }
  list.add_norm("model.norm", draw.hidden);
  if (!draw.tied) list.add("lm_head.weight", Role::kMatrix, draw.vocab, draw.hidden);
  if (draw.has_mtp_tensors()) list.add_mtp();
  std::vector<LogicalTensor> tensors = list.take();
  for (LogicalTensor& tensor : tensors) fill(tensor, seed_of(draw, attempt));
  return tensors;
}

std::vector<int32_t> prompt(const ModelDraw& draw, int attempt) {
  Numbers numbers(seed_of(draw, attempt), "tokens");
  std::vector<int32_t> tokens(static_cast<size_t>(draw.num_tokens));
  for (int32_t& token : tokens)
    token = static_cast<int32_t>(numbers.next() % static_cast<uint64_t>(draw.vocab));
  return tokens;
}

}  // namespace fulgur::property
