#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "reference/model.h"
#include "support/split_mix.h"

namespace fulgur::property {

/// A number from `least` to `most`, both included. The nearer to `least`, the simpler what is made of it: a
/// failing draw shrinks that way.
using Pick = std::function<int64_t(int64_t least, int64_t most)>;

enum class Family { kDeepseekV3, kDeepseekV32, kGlmMoeDsa };

/// What a checkpoint has of an MTP layer (docs/spec/checkpoints.md, 3.10).
enum class Mtp {
  kNone,
  kBare,        // without copies of embedding and head, as GLM ships it
  kWithCopies,  // with them, as DeepSeek does
  kAbsent,      // the config asks for it, the checkpoint has no tensor of it
  kStray,       // the other way round
};

/// A model of the family: every number that config.json says, and in which of its spellings.
struct ModelDraw {
  Family family{};
  int64_t num_layers = 1;
  int64_t hidden = 16;
  int64_t vocab = 16;
  int64_t num_heads = 1;
  int64_t q_lora = 0;  // 0: null
  int64_t kv_lora = 16;
  int64_t nope = 16;
  int64_t rope = 2;
  int64_t value = 16;
  int64_t index_heads = 1;
  int64_t index_head_dim = 64;
  int64_t index_topk = 1;
  int64_t intermediate = 16;
  int64_t moe_intermediate = 16;
  int64_t num_groups = 1;
  int64_t group_size = 1;
  int64_t groups_kept = 1;
  int64_t experts_per_token = 1;
  int64_t shared_experts = 0;
  bool normalize = false;
  bool scaled = false;          // routed_scaling_factor
  std::vector<bool> moe_layer;  // per layer
  int64_t moe_spelling = 0;     // mlp_layer_types, moe_layer_freq, first_k_dense_replace
  std::vector<bool> full_indexer;
  int64_t indexer_spelling = 0;  // none (all full), indexer_types, index_topk_pattern, index_topk_freq
  int64_t index_freq = 1;
  int64_t index_offset = 1;
  int64_t rope_spelling = 0;       // top-level, rope_parameters, yarn
  int64_t rope_interleave = 0;     // not said, true, false
  int64_t indexer_interleave = 0;  // likewise
  bool large_eps = false;          // rms_norm_eps
  bool tied = false;
  Mtp mtp{};
  int64_t num_tokens = 2;
  int64_t values = 0;  // seeds weights and tokens

  [[nodiscard]] bool sparse() const { return family != Family::kDeepseekV3; }
  [[nodiscard]] int64_t num_experts() const { return num_groups * group_size; }
  [[nodiscard]] bool has_mtp_tensors() const { return mtp != Mtp::kNone && mtp != Mtp::kAbsent; }
};

ModelDraw draw_model(const Pick& pick);
std::string in_words(const ModelDraw& draw);

/// config.json without the fields of quantization, each `"name": value`.
std::vector<std::string> config_fields(const ModelDraw& draw);
/// The same for the oracle.
reference::ModelConfig reference_config(const ModelDraw& draw);

enum class Role { kProjection, kMatrix, kNorm, kBias };

/// A tensor of docs/spec/checkpoints.md, section 2, before anyone chose how to store it.
struct LogicalTensor {
  std::string name;  // "model.norm.weight"
  int64_t rows = 1;  // vectors have one
  int64_t cols = 1;
  Role role{};  // kProjection: published checkpoints quantize it; kMatrix: never
  std::vector<double> values;
};

/// Every tensor of the model with values drawn by `attempt` too, the MTP layer's included where it has any.
/// wk comes right before weights_proj.
std::vector<LogicalTensor> logical_tensors(const ModelDraw& draw, int attempt);
std::vector<int32_t> prompt(const ModelDraw& draw, int attempt);

/// A generator of its own for each seed and purpose, so that no two tensors are drawn alike.
class Numbers {
 public:
  Numbers(uint64_t seed, const std::string& purpose);
  uint64_t next() { return words_(); }
  /// In [0, 1).
  double uniform();

 private:
  test::SplitMix64 words_;
};

}  // namespace fulgur::property
