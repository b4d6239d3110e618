#include <optional>
#include <string>
#include <string_view>

#include "model/config_sections.h"

namespace fulgur {
namespace {

constexpr NumberRange kThetaRange{.least = 1, .most = 1e30, .above = true};
constexpr NumberRange kFactorRange{.least = 1, .most = 1e6};
constexpr NumberRange kBetaRange{.least = 0, .most = 1e6, .above = true};
constexpr NumberRange kMscaleRange{.least = 0, .most = 1e3};
constexpr NumberRange kAttentionFactorRange{.least = 0, .most = 1e3, .above = true};

/// `unscaled`: the object holds nothing that could say how positions are scaled.
RopeConfig::Type read_type(ConfigFields& rope, bool unscaled) {
  const auto choose = [&](std::string_view field) {
    return rope.choice(field, {"default", "yarn"}, ErrorKind::kUnsupported, "default");
  };
  const bool spelled_rope_type = rope.has("rope_type");
  const std::string type = choose("type");
  const std::string rope_type = choose("rope_type");
  if (!spelled_rope_type && !rope.has("type") && !unscaled) {
    rope.refuse_missing("rope_type", "\"default\" or \"yarn\"");
  } else if (spelled_rope_type && rope.has("type") && rope.good({"type", "rope_type"}) && type != rope_type) {
    rope.refuse("rope_type", "the same as type");
  }
  return (spelled_rope_type ? rope_type : type) == "yarn" ? RopeConfig::Type::kYarn
                                                          : RopeConfig::Type::kDefault;
}

RopeConfig read_object(ConfigFields& fields, double outer_theta, bool unscaled) {
  RopeConfig rope;
  rope.theta = fields.number("rope_theta", kThetaRange, outer_theta);
  rope.type = read_type(fields, unscaled);
  const bool yarn = rope.type == RopeConfig::Type::kYarn;
  rope.factor =
      yarn ? fields.number("factor", kFactorRange) : fields.number("factor", kFactorRange, rope.factor);
  constexpr std::string_view kOriginal = "original_max_position_embeddings";
  rope.original_max_position_embeddings =
      yarn ? fields.integer(kOriginal, kSizeRange) : fields.integer(kOriginal, kSizeRange, 0);
  rope.beta_fast = fields.number("beta_fast", kBetaRange, rope.beta_fast);
  rope.beta_slow = fields.number("beta_slow", kBetaRange, rope.beta_slow);
  rope.mscale = fields.nullable_number("mscale", kMscaleRange).value_or(0);
  rope.mscale_all_dim = fields.nullable_number("mscale_all_dim", kMscaleRange).value_or(0);
  rope.attention_factor = fields.nullable_number("attention_factor", kAttentionFactorRange);
  if (fields.good({"beta_fast", "beta_slow"}) && rope.beta_fast < rope.beta_slow) {
    fields.refuse(fields.has("beta_fast") ? "beta_fast" : "beta_slow",
                  fields.has("beta_fast") ? "at least beta_slow" : "at most beta_fast");
  }
  return rope;
}

}  // namespace

RopeConfig read_rope(ConfigFields& config) {
  RopeConfig plain;
  plain.theta = config.number("rope_theta", kThetaRange, plain.theta);
  std::optional<RopeConfig> first;
  for (const std::string field : {"rope_parameters", "rope_scaling"}) {
    if (!config.has(field)) continue;
    const Json& object = config.value(field);
    if (!object.is_object()) {
      config.refuse(field, "an object, or null");
      continue;
    }
    ConfigFields fields(object, config.file(), config.problems(), field + ".");
    const bool unscaled = object.size() == object.count("rope_theta");
    const RopeConfig rope = read_object(fields, plain.theta, unscaled);
    if (!first) first = rope;
  }
  return first.value_or(plain);
}

}  // namespace fulgur
