#include "model/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "model/config_sections.h"

namespace fulgur {
namespace {

constexpr std::string_view kQuantizationField = "quantization_config";
constexpr IntegerRange kExpertRange{1, 65536};
constexpr int64_t kMostRows = INT32_MAX;  // of one weight: kernels count rows in an int

struct Family {
  ModelType type;
  std::string_view name;
  std::string_view architecture;
};
constexpr Family kFamilies[] = {{ModelType::kDeepseekV3, "deepseek_v3", "DeepseekV3ForCausalLM"},
                                {ModelType::kDeepseekV32, "deepseek_v32", "DeepseekV32ForCausalLM"},
                                {ModelType::kGlmMoeDsa, "glm_moe_dsa", "GlmMoeDsaForCausalLM"}};

const Family& family(ModelType type) { return kFamilies[static_cast<size_t>(type)]; }

void read_sizes(ConfigFields& fields, Config& config) {
  config.vocab_size = fields.integer("vocab_size", kSizeRange);
  config.hidden_size = fields.integer("hidden_size", kSizeRange);
  config.intermediate_size = fields.integer("intermediate_size", kSizeRange);
  config.num_hidden_layers = fields.integer("num_hidden_layers", kLayerRange);
  config.max_position_embeddings = fields.integer("max_position_embeddings", kSizeRange);
  config.rms_norm_eps = fields.number("rms_norm_eps", {.least = 1e-30, .most = 1}, config.rms_norm_eps);
  config.tie_word_embeddings = fields.flag("tie_word_embeddings", false);
  fields.choice("hidden_act", {"silu"}, ErrorKind::kUnsupported, "silu");
}

void read_attention(ConfigFields& fields, Config& config) {
  config.num_attention_heads = fields.integer("num_attention_heads", kSizeRange);
  config.q_lora_rank = fields.nullable_integer("q_lora_rank", kSizeRange).value_or(0);
  config.kv_lora_rank = fields.integer("kv_lora_rank", kSizeRange);
  config.qk_nope_head_dim = fields.integer("qk_nope_head_dim", kSizeRange);
  config.qk_rope_head_dim = fields.integer("qk_rope_head_dim", kSizeRange);
  config.v_head_dim = fields.integer("v_head_dim", kSizeRange);
  config.rope = read_rope(fields);
  config.rope_interleave = fields.flag("rope_interleave", true);
  if (fields.flag("attention_bias", false)) fields.refuse("attention_bias", "false", ErrorKind::kUnsupported);

  const auto num_kv_heads = fields.nullable_integer("num_key_value_heads", kSizeRange);
  if (num_kv_heads && fields.good({"num_attention_heads"}) && *num_kv_heads != config.num_attention_heads) {
    fields.refuse("num_key_value_heads",
                  fmt::format("{}, as num_attention_heads", config.num_attention_heads));
  }
  const int64_t head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim;
  const auto given_head_dim = fields.nullable_integer("qk_head_dim", kSizeRange);
  if (given_head_dim && fields.good({"qk_nope_head_dim", "qk_rope_head_dim"}) &&
      *given_head_dim != head_dim) {
    fields.refuse("qk_head_dim", fmt::format("{}, as qk_nope_head_dim + qk_rope_head_dim", head_dim));
  }
  if (config.qk_rope_head_dim % 2 != 0) fields.refuse("qk_rope_head_dim", "even");
}

/// The fields of a model without an indexer are checked too, and then forgotten.
void read_indexer(ConfigFields& fields, Config& config) {
  const bool sparse = config.model_type != ModelType::kDeepseekV3;
  const auto size = [&](std::string_view field) {
    return sparse ? fields.integer(field, kSizeRange) : fields.integer(field, kSizeRange, 0);
  };
  const int64_t topk = size("index_topk");
  const int64_t num_heads = size("index_n_heads");
  const int64_t head_dim = size("index_head_dim");
  const bool interleave = fields.flag("indexer_rope_interleave", config.model_type == ModelType::kGlmMoeDsa);
  const bool share = fields.flag("index_share_for_mtp_iteration", false);
  std::vector<bool> full = read_full_indexers(fields, config.num_hidden_layers);
  if (!sparse) return;

  config.index_topk = std::max<int64_t>(topk, 1);  // sparse also where the field is refused
  config.index_n_heads = num_heads;
  config.index_head_dim = head_dim;
  config.indexer_rope_interleave = interleave;
  config.index_share_for_mtp_iteration = share;
  config.full_indexer = std::move(full);
  if (fields.good({"index_head_dim", "qk_rope_head_dim"}) && config.qk_rope_head_dim > head_dim) {
    fields.refuse("index_head_dim", fmt::format("at least qk_rope_head_dim ({})", config.qk_rope_head_dim));
  }
  if (fields.good({"q_lora_rank"}) && config.q_lora_rank == 0) {
    fields.refuse("q_lora_rank", ErrorKind::kBadConfig,
                  fmt::format("q_lora_rank is null or missing, but the indexer of {} reads the query latent.",
                              name(config.model_type)),
                  describe(kSizeRange), fields.has("q_lora_rank") ? "null" : "no such field or null");
  }
}

void read_experts(ConfigFields& fields, Config& config) {
  config.moe_intermediate_size = fields.integer("moe_intermediate_size", kSizeRange);
  config.n_routed_experts = fields.integer("n_routed_experts", kExpertRange);
  config.n_shared_experts = fields.integer("n_shared_experts", {0, kExpertRange.most}, 1);
  config.num_experts_per_tok = fields.integer("num_experts_per_tok", kExpertRange);
  config.n_group = fields.integer("n_group", kExpertRange, 1);
  config.topk_group = fields.integer("topk_group", kExpertRange, 1);
  config.norm_topk_prob = fields.flag("norm_topk_prob", true);
  config.routed_scaling_factor = fields.number("routed_scaling_factor", {.least = 1e-30, .most = 1e6}, 1);
  config.moe_layer = read_moe_layers(fields, config.num_hidden_layers);
  fields.choice("scoring_func", {"sigmoid"}, ErrorKind::kUnsupported, "sigmoid");
  fields.choice("topk_method", {"noaux_tc"}, ErrorKind::kUnsupported, "noaux_tc");

  const int64_t num_experts = config.n_routed_experts;
  if (!fields.good({"n_routed_experts", "n_group", "topk_group"})) return;
  if (num_experts % config.n_group != 0) {
    fields.refuse("n_group", fmt::format("a divisor of n_routed_experts ({})", num_experts));
    return;
  }
  const int64_t group_size = num_experts / config.n_group;
  if (config.n_group > 1 && group_size < 2) {
    fields.refuse("n_group", fmt::format("at most n_routed_experts / 2 ({}), or 1", num_experts / 2));
  }
  if (config.topk_group > config.n_group) {
    fields.refuse("topk_group", fmt::format("at most n_group ({})", config.n_group));
  }
  const int64_t eligible = config.topk_group * group_size;
  if (fields.good({"num_experts_per_tok", "n_group", "topk_group"}) &&
      config.num_experts_per_tok > eligible) {
    fields.refuse("num_experts_per_tok", fmt::format("at most the {} experts of topk_group ({}) groups",
                                                     eligible, config.topk_group));
  }
}

void read_mtp(ConfigFields& fields, Config& config) {
  config.num_nextn_predict_layers = fields.integer("num_nextn_predict_layers", {0, kLayerRange.most}, 0);
  if (config.num_nextn_predict_layers > 1) {
    fields.refuse("num_nextn_predict_layers", "0 or 1", ErrorKind::kUnsupported);
  }
}

void read_tokens(ConfigFields& fields, Config& config) {
  const IntegerRange ids{0, (config.vocab_size > 0 ? config.vocab_size : kSizeRange.most) - 1};
  config.bos_token_id = fields.nullable_integer("bos_token_id", ids);
  config.eos_token_ids = fields.nullable_integers("eos_token_id", ids);
}

void check_labels(ConfigFields& fields, const Config& config) {
  for (const std::string_view field : {"dtype", "torch_dtype"}) {
    if (fields.has(field))
      fields.choice(field, {"bfloat16", "float16", "float32"}, ErrorKind::kBadConfig, "");
  }
  if (fields.has("dtype") && fields.has("torch_dtype") && fields.good({"dtype", "torch_dtype"}) &&
      fields.value("dtype") != fields.value("torch_dtype")) {
    fields.refuse("torch_dtype", fmt::format("{}, as dtype", brief(fields.value("dtype"))));
  }
  const auto architectures = fields.nullable_strings("architectures");
  const std::string_view expected = family(config.model_type).architecture;
  if (architectures && (architectures->empty() || architectures->front() != expected)) {
    fields.refuse("architectures",
                  fmt::format("[\"{}\"], as model_type \"{}\" says", expected, name(config.model_type)));
  }
}

/// Sizes that are in range each, but whose product a kernel could not count.
void check_products(ConfigFields& fields, const Config& config) {
  const auto check = [&](std::string_view field, std::string_view rows, int64_t factor, int64_t width) {
    if (factor * width <= kMostRows) return;  // both are below 2^26
    fields.refuse(field, ErrorKind::kBadConfig,
                  fmt::format("{} asks for {} rows in one matrix.", rows, factor * width),
                  fmt::format("{} at most {}", rows, kMostRows), fmt::format("{} * {}", factor, width));
  };
  const int64_t heads = config.num_attention_heads;
  check("num_attention_heads", "num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim)", heads,
        config.qk_nope_head_dim + config.qk_rope_head_dim);
  check("num_attention_heads", "num_attention_heads * (qk_nope_head_dim + v_head_dim)", heads,
        config.qk_nope_head_dim + config.v_head_dim);
  check("num_attention_heads", "num_attention_heads * (kv_lora_rank + qk_rope_head_dim)", heads,
        config.kv_lora_rank + config.qk_rope_head_dim);
  check("index_n_heads", "index_n_heads * index_head_dim", config.index_n_heads, config.index_head_dim);
  check("n_shared_experts", "n_shared_experts * moe_intermediate_size", config.n_shared_experts,
        config.moe_intermediate_size);
}

/// Without a family that is known, no other field means anything.
ModelType read_model_type(ConfigFields& fields) {
  constexpr std::string_view kField = "model_type";
  if (!fields.has(kField)) {
    fields.refuse_missing(kField, "\"deepseek_v3\", \"deepseek_v32\" or \"glm_moe_dsa\"");
  } else {
    const std::string text = fields.choice(kField, {kFamilies[0].name, kFamilies[1].name, kFamilies[2].name},
                                           ErrorKind::kUnsupported, "");
    for (const Family& known : kFamilies) {
      if (text == known.name) return known.type;
    }
  }
  throw Error(fields.problems());
}

Config read_all(ConfigFields& fields) {
  Config config;
  config.model_type = read_model_type(fields);
  read_sizes(fields, config);
  read_attention(fields, config);
  read_indexer(fields, config);
  read_experts(fields, config);
  read_mtp(fields, config);
  read_tokens(fields, config);
  check_labels(fields, config);
  config.quantization = read_quantization(fields);
  check_products(fields, config);
  return config;
}

/// All its problems are added; throws where nothing can be read.
Config read_document(const Json& document, const std::string& file, std::vector<Problem>& problems) {
  if (!document.is_object()) {
    throw Error(Problem{.kind = ErrorKind::kBadConfig,
                        .file = file,
                        .message = fmt::format("The top level must be an object, not {}.", brief(document)),
                        .expected = "{\"model_type\": ..., ...}",
                        .found = brief(document),
                        .todo = fmt::format("use the {} that belongs to this checkpoint", file)});
  }
  ConfigFields fields(document, file, problems);
  return read_all(fields);
}

/// Without those of objects in it.
std::string_view field_of(const Problem& problem) {
  return std::string_view(problem.tensor).substr(0, problem.tensor.find('.'));
}

/// Not so fields that neither name a tensor nor give it a shape, or do so of modules that may be quantized.
bool decides_tensors(const Problem& problem) {
  constexpr std::string_view kFree[] = {"hidden_act",
                                        "rms_norm_eps",
                                        "max_position_embeddings",
                                        "rope_theta",
                                        "rope_scaling",
                                        "rope_parameters",
                                        "rope_interleave",
                                        "num_key_value_heads",
                                        "qk_head_dim",
                                        "index_topk",
                                        "indexer_rope_interleave",
                                        "index_share_for_mtp_iteration",
                                        "n_group",
                                        "topk_group",
                                        "num_experts_per_tok",
                                        "norm_topk_prob",
                                        "scoring_func",
                                        "topk_method",
                                        "routed_scaling_factor",
                                        "bos_token_id",
                                        "eos_token_id",
                                        "dtype",
                                        "torch_dtype",
                                        kQuantizationField};
  return std::find(std::begin(kFree), std::end(kFree), field_of(problem)) == std::end(kFree);
}

/// A file beside config.json, if it is there: `read` takes its fields. Returns all its problems.
template <typename Read>
std::vector<Problem> read_beside(const std::filesystem::path& path, Read read) {
  std::error_code ignored;
  if (std::filesystem::symlink_status(path, ignored).type() == std::filesystem::file_type::not_found)
    return {};
  std::vector<Problem> problems;
  try {
    const Json document = read_json(path, ErrorKind::kBadConfig);
    const std::string file = path.filename().string();
    if (!document.is_object()) {
      problems.push_back({.kind = ErrorKind::kBadConfig,
                          .file = file,
                          .message = "The top level must be an object.",
                          .expected = "{...}",
                          .found = brief(document),
                          .todo = fmt::format("use the {} that belongs to this checkpoint, or none", file)});
    } else {
      ConfigFields fields(document, file, problems);
      read(fields);
    }
  } catch (const Error& error) {
    problems.insert(problems.end(), error.problems().begin(), error.problems().end());
  }
  return problems;
}

/// Chat models name in generation_config.json what ends a turn.
void merge_generation_config(ConfigFields& fields, Config& config) {
  Config beside;
  beside.vocab_size = config.vocab_size;
  read_tokens(fields, beside);
  for (const int64_t id : beside.eos_token_ids) {
    auto& ids = config.eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
}

}  // namespace

std::string_view name(ModelType type) { return family(type).name; }

Config parse_config(std::string_view json, const std::string& file) {
  std::vector<Problem> problems;
  Config config = read_document(parse_json(json, ErrorKind::kBadConfig, file), file, problems);
  if (!problems.empty()) throw Error(std::move(problems));
  return config;
}

std::set<std::string, std::less<>> config_field_names() {
  const Json document = {{"model_type", kFamilies[0].name}};
  std::vector<Problem> ignored;  // it lacks all else
  ConfigFields fields(document, "", ignored);
  (void)read_all(fields);
  return fields.looked_for();
}

ConfigSurvey survey_config(const std::filesystem::path& folder) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored)) {
    throw Error(Problem{.kind = ErrorKind::kIoError,
                        .file = folder.string(),
                        .message = "There is no such folder.",
                        .expected = "a checkpoint's folder, with config.json in it",
                        .found = std::filesystem::exists(folder, ignored) ? "a file" : "nothing",
                        .todo = "name the folder that holds the model's files"});
  }
  const std::filesystem::path path = folder / "config.json";
  ConfigSurvey survey;
  std::vector<Problem>& problems = survey.problems;
  Config config = read_document(read_json(path, ErrorKind::kBadConfig), path.filename().string(), problems);
  const bool sound = std::none_of(problems.begin(), problems.end(), decides_tensors);
  survey.quantization_unknown = std::any_of(problems.begin(), problems.end(), [](const Problem& problem) {
    return field_of(problem) == kQuantizationField;
  });
  const auto add = [&](std::vector<Problem> more) {
    problems.insert(problems.end(), std::make_move_iterator(more.begin()),
                    std::make_move_iterator(more.end()));
  };
  add(read_beside(folder / "generation_config.json",
                  [&](ConfigFields& fields) { merge_generation_config(fields, config); }));
  std::vector<Problem> of_modelopt = read_beside(folder / "hf_quant_config.json", [&](ConfigFields& fields) {
    config.quantization = read_modelopt_quantization(fields, config.quantization);
  });
  survey.quantization_unknown = survey.quantization_unknown || !of_modelopt.empty();
  add(std::move(of_modelopt));
  if (sound) survey.config = std::move(config);
  return survey;
}

Config read_config(const std::filesystem::path& folder) {
  ConfigSurvey survey = survey_config(folder);
  if (!survey.problems.empty()) throw Error(std::move(survey.problems));
  return std::move(*survey.config);
}

void override_index_topk(Config& config, int64_t index_topk) {
  if (!config.sparse()) {
    throw Error(ErrorKind::kBadRequest,
                fmt::format("--index-topk means nothing to a model without an indexer ({}).",
                            name(config.model_type)));
  }
  if (index_topk < kSizeRange.least || index_topk > kSizeRange.most) {
    throw Error(ErrorKind::kBadRequest,
                fmt::format("--index-topk must be {}, not {}.", describe(kSizeRange), index_topk));
  }
  config.index_topk = index_topk;
}

}  // namespace fulgur
