#include <cstring>
#include <limits>

#include "defects.h"

namespace fulgur {
namespace {

using Checkpoint = GoldenCheckpoint;
using Result = std::optional<Expected>;

constexpr const char* kBlocks = "**.weight_scale_inv";  // FP8
constexpr const char* kBlocksOfWk = "model.layers.*.self_attn.indexer.wk.weight_scale_inv";
constexpr const char* kBlocksOfFused = "model.layers.*.self_attn.indexer.wk_weights_proj.weight_scale_inv";
constexpr const char* kBlocksOfAnExpert = "model.layers.*.mlp.experts.*.up_proj.weight_scale_inv";
constexpr const char* kGroups = "model.layers.*.mlp.experts.*.up_proj.weight_scale";    // NVFP4
constexpr const char* kFactor = "model.layers.*.mlp.experts.*.up_proj.weight_scale_2";  // modelopt's
constexpr const char* kDivisor =
    "model.layers.*.mlp.experts.*.up_proj.weight_global_scale";  // compressed-tensors'

constexpr const char* kInputs = "model.layers.*.mlp.experts.*.up_proj.input_scale";
constexpr const char* kInputsOfCt = "model.layers.*.mlp.experts.*.up_proj.input_global_scale";

constexpr auto kMissing = ErrorKind::kMissingScale;
constexpr auto kOrphan = ErrorKind::kOrphanScale;
constexpr auto kBad = ErrorKind::kBadScale;
constexpr auto kShape = ErrorKind::kShapeMismatch;
constexpr auto kType = ErrorKind::kUnknownDType;

/// The weight that a scale stands beside.
std::string weight_beside(const Checkpoint& c, const std::string& scale) {
  const std::string module = module_of(scale);
  return c.has(module + "weight") ? module + "weight" : module + "weight_packed";
}

Defect gone(const char* name, const char* pattern) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto scale = c.first(pattern);
            if (!scale) return std::nullopt;
            const std::string weight = weight_beside(c, *scale);
            c.erase(*scale);
            return refused(kMissing, weight, {weight, *scale});
          }};
}

Defect shaped(const char* name, const char* pattern,
              const std::function<std::vector<int64_t>(std::vector<int64_t>)>& reshape) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto scale = c.first_that(
                pattern, [&](const TestTensor& tensor) { return reshape(tensor.shape) != tensor.shape; });
            if (!scale) return std::nullopt;
            const std::vector<int64_t> after = reshape(c.at(*scale).shape);
            c.store_as(*scale, c.at(*scale).dtype, after);
            return refused(kShape, *scale, {*scale, fmt::format("[{}]", fmt::join(after, ", "))});
          }};
}

Defect typed(const char* name, const char* pattern, const char* dtype) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto scale = c.first(pattern);
            if (!scale) return std::nullopt;
            c.store_as(*scale, dtype, c.at(*scale).shape);
            return refused(kType, *scale, {*scale, dtype});
          }};
}

/// The last value of a tensor, and its index as a message has it.
template <typename Bits>
std::string set_last(TestTensor& tensor, Bits bits) {
  std::memcpy(tensor.data.data() + tensor.data.size() - sizeof bits, &bits, sizeof bits);
  std::vector<int64_t> index = tensor.shape;
  for (int64_t& at : index) --at;
  if (index.empty()) index.push_back(0);
  return fmt::format("[{}]", fmt::join(index, ", "));
}

/// A scale whose last value is `value`, f32 or the nearest in E8M0 (of which all but NaN are good).
Defect valued(const char* name, const char* pattern, float value, const char* shown) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto scale =
                c.first_that(pattern, [](const TestTensor& tensor) { return tensor.dtype == "F32"; });
            if (!scale) return std::nullopt;
            const std::string index = set_last(c.change(*scale), value);
            return refused(kBad, *scale, {*scale + index, shown});
          }};
}

/// The same of a type whose values are bytes.
Defect coded(const char* name, const char* pattern, const char* dtype, uint8_t code, const char* shown) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto scale =
                c.first_that(pattern, [&](const TestTensor& tensor) { return tensor.dtype == dtype; });
            if (!scale) return std::nullopt;
            const std::string index = set_last(c.change(*scale), code);
            return refused(kBad, *scale, {*scale + index, shown});
          }};
}

/// A scale beside a weight that has none, or beside nothing.
Defect orphan(const char* name, const char* pattern, const char* spelling) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto weight = c.first_that(pattern, [](const TestTensor& tensor) {
              return tensor.dtype == "BF16" || tensor.dtype == "F8_E4M3";
            });
            if (!weight) return std::nullopt;
            const std::string module = module_of(*weight);
            if (c.has(module + spelling)) return std::nullopt;
            c.add(module + spelling, "F32", {1, 1});
            return refused(kOrphan, module + spelling, {module + spelling});
          }};
}

/// The bug that this project began with: wk was fused, its scale was left behind.
Result scale_of_wk_left_behind(Checkpoint& c) {
  const auto fused = c.first("model.layers.*.self_attn.indexer.wk_weights_proj.weight");
  if (!fused) return std::nullopt;
  const std::string module = module_of(*fused);
  const std::string scale = module_of(module.substr(0, module.size() - 1)) + "wk.weight_scale_inv";
  c.add(scale, "F32", {1, 2});
  return refused(kOrphan, scale, {scale});
}

Result both_spellings(Checkpoint& c) {
  const auto scale = c.first(kBlocks);
  if (!scale) return std::nullopt;
  const std::string other = module_of(*scale) + "weight_scale";
  c.add_like(other, *scale);
  return refused(ErrorKind::kConflictingTensors, *scale, {*scale, other});
}

/// FP8's weight became bf16 and kept its scale.
Result scale_of_a_dequantized_weight(Checkpoint& c) {
  const auto scale = c.first(kBlocksOfAnExpert);
  if (!scale) return std::nullopt;
  const std::string weight = weight_beside(c, *scale);
  c.store_as(weight, "BF16", c.at(weight).shape);
  return refused(kOrphan, *scale, {*scale});
}

Result both_scales_gone(Checkpoint& c) {
  const auto groups = c.first(kGroups);
  if (!groups || !(c.first(kFactor) || c.first(kDivisor))) return std::nullopt;
  const std::string weight = weight_beside(c, *groups);
  const std::string factor = c.first(kFactor) ? *c.first(kFactor) : *c.first(kDivisor);
  c.erase(*groups);
  c.erase(factor);
  return refused(kMissing, weight, {*groups, factor});
}

/// U8 means E8M0 only where the config says so.
Result bytes_for_block_scales(Checkpoint& c) {
  const auto scale = c.first(kBlocks);
  if (!scale) return std::nullopt;
  c.set("quantization_config.scale_fmt", "null");
  c.store_as(*scale, "U8", c.at(*scale).shape);
  return refused(kType, *scale, {*scale, "U8", "ue8m0"});
}

/// Codes that were not packed two to a byte.
Result unpacked(Checkpoint& c) {
  const auto groups = c.first(kGroups);
  if (!groups) return std::nullopt;
  const std::string weight = weight_beside(c, *groups);
  if (c.at(weight).dtype != "U8") return std::nullopt;
  const std::vector<int64_t> shape = c.at(weight).shape;
  c.store_as(weight, "U8", {shape.front(), 2 * shape.back()});
  return refused(kShape, weight, {weight});
}

/// A scale of 0 is legal over codes of 0 alone.
Result block_of_zero_over_codes(Checkpoint& c) {
  if (const auto scale =
          c.first_that(kBlocks, [](const TestTensor& tensor) { return tensor.dtype == "F32"; })) {
    TestTensor& tensor = c.change(*scale);
    tensor.data.assign(tensor.data.size(), '\0');
    return found_by_verify(refused(kBad, *scale, {*scale + "[0, 0]", weight_beside(c, *scale)}));
  }
  const auto groups = c.first(kGroups);
  if (!groups) return std::nullopt;
  TestTensor& tensor = c.change(*groups);
  tensor.data.assign(tensor.data.size(), '\0');
  return found_by_verify(refused(kBad, *groups, {*groups + "[0, 0]", weight_beside(c, *groups)}));
}

/// Scales that are finite, over codes that they make infinite.
Result product_that_overflows(Checkpoint& c) {
  auto scale = c.first_that(kBlocks, [](const TestTensor& tensor) { return tensor.dtype == "F32"; });
  if (!scale) scale = c.first(kFactor);
  if (!scale) return std::nullopt;
  TestTensor& tensor = c.change(*scale);
  const float large = 3e38F;
  for (size_t at = 0; at < tensor.data.size(); at += sizeof large)
    std::memcpy(tensor.data.data() + at, &large, sizeof large);
  const std::string weight = weight_beside(c, *scale);
  return found_by_verify(refused(ErrorKind::kBadValue, weight, {weight + "["}));
}

/// A weight whose last value is no number.
template <typename Bits>
Defect bad_value(const char* name, const char* dtype, Bits bits) {
  return {name, [=](Checkpoint& c) -> Result {
            const auto weight = c.first_that("**", [&](const TestTensor& tensor) {
              return tensor.dtype == dtype && !is_scale(tensor.name);
            });
            if (!weight) return std::nullopt;
            const std::string index = set_last(c.change(*weight), bits);
            return found_by_verify(refused(ErrorKind::kBadValue, *weight, {*weight + index}));
          }};
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<int64_t> one_by_one(const std::vector<int64_t>& /*shape*/) { return {1, 1}; }
std::vector<int64_t> none(const std::vector<int64_t>& /*shape*/) { return {}; }
std::vector<int64_t> two(const std::vector<int64_t>& /*shape*/) { return {2}; }
std::vector<int64_t> transposed(const std::vector<int64_t>& shape) { return {shape.rbegin(), shape.rend()}; }
std::vector<int64_t> one_column_less(std::vector<int64_t> shape) {
  if (shape.back() > 1) --shape.back();
  return shape;
}
std::vector<int64_t> one_row_more(std::vector<int64_t> shape) {
  ++shape.front();
  return shape;
}

}  // namespace

std::vector<Defect> scale_defects() {
  return {
      gone("wk without its scale", kBlocksOfWk),
      gone("the fused tensor without its scale", kBlocksOfFused),
      gone("an expert without its scale", kBlocksOfAnExpert),
      gone("codes without group scales", kGroups),
      gone("codes without their factor", kFactor),
      gone("codes without their divisor", kDivisor),
      {"codes without any scale", both_scales_gone},
      shaped("a scale for a whole matrix where there are blocks", kBlocks, one_by_one),
      shaped("a scale of no dimension where there are blocks", kBlocks, none),
      shaped("block scales transposed", kBlocks, transposed),
      shaped("block scales of a column less", kBlocks, one_column_less),
      shaped("block scales of a row more", kBlocks, one_row_more),
      shaped("group scales of a column less", kGroups, one_column_less),
      shaped("group scales transposed", kGroups, transposed),
      shaped("a factor of two numbers", kFactor, two),
      shaped("a divisor of two numbers", kDivisor, two),
      {"codes that were not packed", unpacked},
      typed("block scales in F16", kBlocks, "F16"),
      typed("block scales in FP8", kBlocks, "F8_E4M3"),
      {"block scales in U8 without a word of it", bytes_for_block_scales},
      typed("group scales in BF16", kGroups, "BF16"),
      typed("a factor in BF16", kFactor, "BF16"),
      typed("a divisor of a type that nobody knows", kDivisor, "Q4_0"),
      valued("a block scale that is NaN", kBlocks, kNan, "nan"),
      valued("a block scale that is infinite", kBlocks, kInfinity, "inf"),
      valued("a block scale below 0", kBlocks, -1.5F, "-1.5"),
      coded("an e8m0 block scale that is NaN", kBlocks, "F8_E8M0", 0xff, "nan"),
      coded("a group scale that is NaN", kGroups, "F8_E4M3", 0x7f, "nan"),
      coded("a group scale below 0", kGroups, "F8_E4M3", 0x81, "-0.001953125"),
      valued("a factor that is NaN", kFactor, kNan, "nan"),
      valued("a factor of 0", kFactor, 0.0F, "0"),
      valued("a factor of minus 0", kFactor, -0.0F, "0"),
      valued("a factor that is infinite", kFactor, kInfinity, "inf"),
      valued("a factor without a reciprocal", kFactor, 1e-39F, "1e-39"),
      valued("a divisor of 0", kDivisor, 0.0F, "0"),
      valued("a divisor without a reciprocal", kDivisor, 1e-39F, "1e-39"),
      valued("a divisor below 0", kDivisor, -1.0F, "-1"),
      valued("a divisor that is infinite", kDivisor, kInfinity, "inf"),
      shaped("a scale of activations of two numbers", kInputs, two),
      shaped("a scale of activations of two dimensions", kInputsOfCt, one_by_one),
      typed("a scale of activations in I32", kInputs, "I32"),
      valued("a scale of activations that is NaN", kInputs, kNan, "nan"),
      valued("a scale of activations of 0", kInputsOfCt, 0.0F, "0"),
      valued("a scale of activations below 0", kInputs, -1.0F, "-1"),
      valued("a scale of activations that is infinite", kInputsOfCt, kInfinity, "inf"),
      {"scales of 0 over codes that are not", block_of_zero_over_codes},
      {"scales that make codes infinite", product_that_overflows},
      orphan("an FP8 scale beside a bf16 output", "model.layers.*.self_attn.o_proj.weight",
             "weight_scale_inv"),
      orphan("an NVFP4 factor beside a weight that is none", "model.layers.*.self_attn.o_proj.weight",
             "weight_scale_2"),
      orphan("a scale of the router", "model.layers.*.mlp.gate.weight", "weight_scale"),
      orphan("a scale of weights_proj", "model.layers.*.self_attn.indexer.weights_proj.weight",
             "weight_scale_inv"),
      {"the scale of wk beside a fused tensor", scale_of_wk_left_behind},
      {"a scale beside nothing",
       [](Checkpoint& c) -> Result {
         c.add("model.layers.0.self_attn.nothing.weight_scale_inv", "F32", {1, 1});
         return refused(kOrphan, std::string("model.layers.0.self_attn.nothing.weight_scale_inv"));
       }},
      {"an FP8 scale in both spellings", both_spellings},
      {"the scale of a weight that became bf16", scale_of_a_dequantized_weight},
      bad_value<uint16_t>("a bf16 NaN", "BF16", 0xffc0),
      bad_value<uint16_t>("a bf16 infinity", "BF16", 0x7f80),
      bad_value<float>("an f32 NaN", "F32", kNan),
      bad_value<float>("an f32 infinity", "F32", -kInfinity),
      bad_value<uint8_t>("an FP8 NaN", "F8_E4M3", 0x7f),
      bad_value<uint8_t>("an FP8 NaN of the other sign", "F8_E4M3", 0xff),
  };
}

}  // namespace fulgur
