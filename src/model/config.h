#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "checkpoint/fp8_scheme.h"

namespace fulgur {

enum class ModelType { kDeepseekV3, kDeepseekV32, kGlmMoeDsa };

/// "deepseek_v3", ...
std::string_view name(ModelType type);

/// Rotary parameters (docs/spec/model.md, section 2).
struct RopeConfig {
  enum class Type { kDefault, kYarn };
  Type type = Type::kDefault;
  double theta = 10000;
  double factor = 1;  // yarn only, like all below
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;          // 0: not given
  double mscale_all_dim = 0;  // 0: not given
  std::optional<double> attention_factor;
};

/// What quantization_config, or hf_quant_config.json, declares (docs/spec/checkpoints.md, section 3).
struct Quantization {
  std::string method;     // quant_method; "modelopt" where only hf_quant_config.json says so
  std::string algorithm;  // quant_algo, modelopt's: "NVFP4", "FP8"; empty where there is none
  Fp8Scheme fp8;
  std::string format;  // compressed-tensors': "nvfp4-pack-quantized", "float-quantized"
};

/// A checked config.json: every value is in range and none contradicts another, so the rest of the engine may
/// rely on it (docs/spec/model.md, section 10; the symbols in comments are that page's).
struct Config {
  ModelType model_type = ModelType::kDeepseekV3;
  int64_t vocab_size = 0;             // V
  int64_t hidden_size = 0;            // d
  int64_t intermediate_size = 0;      // I
  int64_t moe_intermediate_size = 0;  // Im
  int64_t num_hidden_layers = 0;      // L
  int64_t num_attention_heads = 0;    // h
  int64_t q_lora_rank = 0;            // q; 0 where the config says null
  int64_t kv_lora_rank = 0;           // r
  int64_t qk_nope_head_dim = 0;       // dn
  int64_t qk_rope_head_dim = 0;       // dr
  int64_t v_head_dim = 0;             // dv
  int64_t index_topk = 0;             // K; 0: no indexer (deepseek_v3), like the two below
  int64_t index_n_heads = 0;          // nI
  int64_t index_head_dim = 0;         // dI
  bool indexer_rope_interleave = false;
  std::vector<bool>
      full_indexer;  // per layer, sparse models: owns an indexer (section 5's schedule); else empty
  bool index_share_for_mtp_iteration = false;
  int64_t n_routed_experts = 0;  // E
  int64_t n_shared_experts = 1;
  int64_t num_experts_per_tok = 0;  // k
  int64_t n_group = 1;              // G
  int64_t topk_group = 1;           // kG
  bool norm_topk_prob = true;
  double routed_scaling_factor = 1;
  std::vector<bool> moe_layer;           // per layer: MoE, not dense
  int64_t num_nextn_predict_layers = 0;  // 0 or 1
  double rms_norm_eps = 1e-6;
  int64_t max_position_embeddings = 0;
  RopeConfig rope;
  bool rope_interleave = true;
  bool tie_word_embeddings = false;
  std::optional<Quantization> quantization;  // what is declared; the tensors decide
  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  [[nodiscard]] bool is_eos(int64_t id) const {
    return std::ranges::find(eos_token_ids, id) != eos_token_ids.end();
  }

  [[nodiscard]] bool sparse() const { return index_topk > 0; }
  /// scale_fmt "ue8m0": scales of FP8 that are made here are powers of two.
  [[nodiscard]] bool power_of_two_scales() const { return quantization && quantization->fp8.u8_scales; }
  /// (dn + dr)^-1/2, times m(mscale_all_dim)^2 with yarn.
  [[nodiscard]] double softmax_scale() const;
};

/// --index-topk: attends to K = `index_topk` tokens instead. bad_request for a value that a config.json could
/// not have, or a model without an indexer.
void override_index_topk(Config& config, int64_t index_topk);

/// Reads and checks FOLDER/config.json; end-of-sequence ids of a generation_config.json beside it are added
/// to those of the config, and a hf_quant_config.json says what the config doesn't of the quantization.
/// Throws an Error with every problem found: bad_config and unsupported name field, value and what is
/// allowed.
Config read_config(const std::filesystem::path& folder);
/// The same of a folder whose files may have faults.
struct ConfigSurvey {
  /// Empty where something is wrong with what decides which tensors there are and of which shapes; what else
  /// is wrong stands for a value that could be.
  std::optional<Config> config;
  bool quantization_unknown = false;  // something is wrong with what is declared of it
  std::vector<Problem> problems;      // of all three files together
};
/// Throws what keeps config.json from being read at all.
ConfigSurvey survey_config(const std::filesystem::path& folder);
/// The same from text; `file` is the name used in messages.
Config parse_config(std::string_view json, const std::string& file);
/// Every field that is read of a config.json.
std::set<std::string, std::less<>> config_field_names();

}  // namespace fulgur
