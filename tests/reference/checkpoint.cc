#include "reference/checkpoint.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

namespace fulgur::reference {
namespace {

using nlohmann::json;
using Tensors = std::map<std::string, Table>;

/// A tensor as its file has it.
struct Stored {
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<char> bytes;  // copied to where any type may be read
};
using StoredTensors = std::map<std::string, Stored>;

/// checkpoints.md, section 1, from its words: one sign, four exponent and three mantissa bits, bias 7.
double e4m3(uint8_t code) {
  const double sign = (code & 0x80) != 0 ? -1 : 1;
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  return sign * (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
}

double e8m0(uint8_t code) { return code == 255 ? std::nan("") : std::ldexp(1.0, code - 127); }

/// Section 3.6: bit 3 is the sign.
double e2m1(int code) {
  constexpr double kMagnitudes[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8) != 0 ? -kMagnitudes[code & 7] : kMagnitudes[code & 7];
}

double number(const Stored& tensor, int64_t index) {
  const char* data = tensor.bytes.data();
  if (tensor.dtype == "I16") return reinterpret_cast<const int16_t*>(data)[index];
  if (tensor.dtype == "I32") return reinterpret_cast<const int32_t*>(data)[index];
  if (tensor.dtype == "I64") return static_cast<double>(reinterpret_cast<const int64_t*>(data)[index]);
  const auto code = static_cast<uint8_t>(data[index]);
  if (tensor.dtype == "U8") return code;
  if (tensor.dtype == "F8_E4M3") return e4m3(code);
  if (tensor.dtype == "F8_E8M0") return e8m0(code);
  return element(data, parse_dtype(tensor.dtype).value(), index);
}

/// A vector, or a single number, is one row.
Table values_of(const Stored& tensor) {
  const std::vector<int64_t>& shape = tensor.shape;
  Table table(shape.size() == 2 ? shape[0] : 1, shape.empty() ? 1 : shape.back());
  for (size_t i = 0; i < table.data.size(); ++i) {
    table.data[i] = number(tensor, static_cast<int64_t>(i));
  }
  return table;
}

void read_file(const std::filesystem::path& file, StoredTensors& tensors) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  uint64_t header_bytes = 0;
  std::copy_n(bytes.data(), sizeof header_bytes, reinterpret_cast<char*>(&header_bytes));
  const char* data = bytes.data() + sizeof header_bytes + header_bytes;
  const json header = json::parse(bytes.data() + sizeof header_bytes, data);
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const size_t begin = entry["data_offsets"][0];
    const size_t end = entry["data_offsets"][1];
    tensors[name] = {entry["dtype"], entry["shape"], {data + begin, data + end}};
  }
}

StoredTensors read_stored(const std::filesystem::path& file_or_folder) {
  StoredTensors tensors;
  if (!std::filesystem::is_directory(file_or_folder)) {
    read_file(file_or_folder, tensors);
    return tensors;
  }
  for (const auto& entry : std::filesystem::directory_iterator(file_or_folder)) {
    const auto& path = entry.path();
    if (path.extension() == ".safetensors" && path.filename() != "golden.safetensors")
      read_file(path, tensors);
  }
  return tensors;
}

/// Sections 3.3 to 3.5: W[a, b] = code[a, b] * scale_inv[a / 128, b / 128].
Table fp8_blocks(const Table& codes, const Table& scales) {
  Table weight(codes.rows, codes.cols);
  for (int64_t a = 0; a < codes.rows; ++a) {
    for (int64_t b = 0; b < codes.cols; ++b)
      weight.at(a, b) = codes.at(a, b).value * scales.at(a / 128, b / 128).value;
  }
  return weight;
}

/// Sections 3.6 and 3.7: W[a, b] = e2m1(code) * scale[a, b / 16] * factor, the low nibble the even column.
Table nvfp4(const Table& packed, const Table& scales, double factor) {
  Table weight(packed.rows, 2 * packed.cols);
  for (int64_t a = 0; a < weight.rows; ++a) {
    for (int64_t b = 0; b < weight.cols; ++b) {
      const int pair = static_cast<int>(packed.at(a, b / 2).value);
      weight.at(a, b) = e2m1(b % 2 == 0 ? pair % 16 : pair / 16) * scales.at(a, b / 16).value * factor;
    }
  }
  return weight;
}

/// Every module's weight under its plain name, whatever it is stored as.
Tensors dequantized(const StoredTensors& stored) {
  Tensors tensors;
  for (const auto& [name, tensor] : stored) {
    const std::string module = name.substr(0, name.rfind('.'));
    const auto beside = [&](const char* scale) { return values_of(stored.at(module + scale)); };
    if (name.ends_with(".weight_packed")) {
      tensors[module + ".weight"] = nvfp4(values_of(tensor), beside(".weight_scale"),
                                          1 / beside(".weight_global_scale").at(0, 0).value);
    } else if (name.ends_with(".weight") && tensor.dtype == "U8") {
      tensors[name] =
          nvfp4(values_of(tensor), beside(".weight_scale"), beside(".weight_scale_2").at(0, 0).value);
    } else if (name.ends_with(".weight") && tensor.dtype == "F8_E4M3") {
      tensors[name] = fp8_blocks(values_of(tensor), beside(".weight_scale_inv"));
    } else {
      tensors[name] = values_of(tensor);
    }
  }
  return tensors;
}

RopeConfig read_rope(const json& config) {
  const bool parameters = config.contains("rope_parameters");
  const json& scaling = parameters ? config["rope_parameters"] : config.value("rope_scaling", json());
  RopeConfig rope;
  rope.width = config["qk_rope_head_dim"];
  rope.theta = parameters ? scaling["rope_theta"] : config["rope_theta"];
  if (scaling.is_object() && scaling.value("rope_type", scaling.value("type", "")) == "yarn") {
    rope.yarn = Yarn{.factor = scaling["factor"],
                     .original_length = scaling["original_max_position_embeddings"],
                     .beta_fast = scaling["beta_fast"],
                     .beta_slow = scaling["beta_slow"],
                     .mscale = scaling["mscale"],
                     .mscale_all_dim = scaling["mscale_all_dim"]};
  }
  return rope;
}

ModelConfig read_config(const json& config) {
  ModelConfig result;
  result.eps = config["rms_norm_eps"];
  result.rope = read_rope(config);
  result.mla = {.num_heads = config["num_attention_heads"],
                .kv_lora = config["kv_lora_rank"],
                .nope = config["qk_nope_head_dim"],
                .rope = config["qk_rope_head_dim"],
                .value = config["v_head_dim"],
                .rope_interleave = config.value("rope_interleave", true)};
  result.index_topk = config.value("index_topk", 0);
  result.indexer = {
      .num_heads = config.value("index_n_heads", 0),
      .head_dim = config.value("index_head_dim", 0),
      .rope = config["qk_rope_head_dim"],
      .rope_interleave = config.value("indexer_rope_interleave", config["model_type"] == "glm_moe_dsa")};
  result.moe = {.experts_per_token = config["num_experts_per_tok"],
                .num_groups = config["n_group"],
                .groups_kept = config["topk_group"],
                .normalize = config["norm_topk_prob"],
                .scaling = config["routed_scaling_factor"]};
  return result;
}

class LayerReader {
 public:
  LayerReader(const Tensors& tensors, int layer)
      : tensors_(tensors), prefix_("model.layers." + std::to_string(layer) + ".") {}

  [[nodiscard]] bool has(const std::string& name) const { return tensors_.contains(prefix_ + name); }
  [[nodiscard]] Table get(const std::string& name) const { return tensors_.at(prefix_ + name); }
  [[nodiscard]] FfnTables ffn(const std::string& name) const {
    return {get(name + ".gate_proj.weight"), get(name + ".up_proj.weight"), get(name + ".down_proj.weight")};
  }

  [[nodiscard]] LayerTables layer(const IndexerShape& indexer) const {
    LayerTables layer;
    layer.input_norm = get("input_layernorm.weight");
    if (has("self_attn.q_a_proj.weight")) {
      layer.q_a = get("self_attn.q_a_proj.weight");
      layer.q_a_norm = get("self_attn.q_a_layernorm.weight");
      layer.q_b = get("self_attn.q_b_proj.weight");
    } else {
      layer.q_b = get("self_attn.q_proj.weight");
    }
    layer.kv_a = get("self_attn.kv_a_proj_with_mqa.weight");
    layer.kv_a_norm = get("self_attn.kv_a_layernorm.weight");
    layer.kv_b = get("self_attn.kv_b_proj.weight");
    layer.o = get("self_attn.o_proj.weight");
    layer.post_attention_norm = get("post_attention_layernorm.weight");
    if (has("self_attn.indexer.wq_b.weight")) layer.indexer = this->indexer(indexer);
    if (has("mlp.gate.weight")) {
      layer.moe = moe();
    } else {
      layer.dense = ffn("mlp");
    }
    return layer;
  }

 private:
  [[nodiscard]] IndexerTables indexer(const IndexerShape& shape) const {
    IndexerTables indexer;
    if (has("self_attn.indexer.wk_weights_proj.weight")) {
      const Table fused = get("self_attn.indexer.wk_weights_proj.weight");
      indexer.wk = fused.take_rows(0, shape.head_dim);
      indexer.weights_proj = fused.take_rows(shape.head_dim, shape.num_heads);
    } else {
      indexer.wk = get("self_attn.indexer.wk.weight");
      indexer.weights_proj = get("self_attn.indexer.weights_proj.weight");
    }
    indexer.k_norm_gain = get("self_attn.indexer.k_norm.weight");
    indexer.k_norm_bias = get("self_attn.indexer.k_norm.bias");
    indexer.wq_b = get("self_attn.indexer.wq_b.weight");
    return indexer;
  }

  [[nodiscard]] MoeTables moe() const {
    MoeTables moe;
    moe.router = get("mlp.gate.weight");
    moe.correction_bias = get("mlp.gate.e_score_correction_bias");
    for (int e = 0; e < moe.router.rows; ++e) moe.experts.push_back(ffn("mlp.experts." + std::to_string(e)));
    if (has("mlp.shared_experts.gate_proj.weight")) moe.shared = ffn("mlp.shared_experts");
    return moe;
  }

  const Tensors& tensors_;
  std::string prefix_;
};

}  // namespace

std::map<std::string, Table> read_tensors(const std::filesystem::path& file_or_folder) {
  Tensors tensors;
  for (const auto& [name, tensor] : read_stored(file_or_folder)) tensors[name] = values_of(tensor);
  return tensors;
}

ModelTables tables_of(const Tensors& tensors, int num_layers, const IndexerShape& indexer) {
  ModelTables tables;
  tables.embedding = tensors.at("model.embed_tokens.weight");
  for (int i = 0; i < num_layers; ++i) tables.layers.push_back(LayerReader(tensors, i).layer(indexer));
  tables.norm = tensors.at("model.norm.weight");
  tables.head = tensors.contains("lm_head.weight") ? tensors.at("lm_head.weight") : tables.embedding;
  const LayerReader mtp(tensors, num_layers);
  if (mtp.has("eh_proj.weight")) {
    tables.mtp =
        MtpTables{mtp.has("embed_tokens.weight") ? mtp.get("embed_tokens.weight") : tables.embedding,
                  mtp.get("enorm.weight"),
                  mtp.get("hnorm.weight"),
                  mtp.get("eh_proj.weight"),
                  mtp.layer(indexer),
                  mtp.get("shared_head.norm.weight"),
                  mtp.has("shared_head.head.weight") ? mtp.get("shared_head.head.weight") : tables.head};
  }
  return tables;
}

Model read_model(const std::filesystem::path& folder) {
  std::ifstream in(folder / "config.json");
  const json config = json::parse(in);
  const ModelConfig model = read_config(config);
  return {model, tables_of(dequantized(read_stored(folder)), config["num_hidden_layers"], model.indexer)};
}

}  // namespace fulgur::reference
