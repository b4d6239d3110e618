#include "property/store_model.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <string_view>

#include "property/quantize.h"

namespace fulgur::property {
namespace {

using reference::Real;
using reference::Table;
using Use = StoredTensor::Use;

constexpr int64_t kBlock = 128;
constexpr int64_t kGroup = 16;
constexpr double kLargestE4m3 = 448;
constexpr double kLargestE2m1 = 6;
constexpr std::string_view kKinds[] = {"f32", "bf16", "f16", "fp8", "nvfp4-modelopt", "nvfp4-ct"};
constexpr std::string_view kScaleTypes[] = {"F32", "BF16", "F8_E8M0", "U8"};
constexpr std::string_view kScaleShapes[] = {"blocks", "rows", "[]", "[1]"};

/// A group of compressed-tensors for each strategy, after one of FP4.
std::string groups_of(int64_t strategies) {
  std::string groups = R"("fp4": {"weights": {"num_bits": 4, "type": "float", "group_size": 16}})";
  constexpr std::string_view kStrategies[] = {"block", "channel", "tensor"};
  for (size_t i = 0; i < std::size(kStrategies); ++i) {
    if ((strategies >> i & 1) != 0)
      groups += fmt::format(
          R"(, "{0}": {{"weights": {{"num_bits": 8, "type": "float", "strategy": "{0}"}}}})", kStrategies[i]);
  }
  return groups;
}

/// quantization_config, empty for none.
std::string declaration(const StoreDraw& draw) {
  switch (draw.declared) {
    case Declared::kFp8Blocks:
      return R"({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], )"
             R"("modules_to_not_convert": ["self_attn.indexers_proj"]})";
    case Declared::kFp8PowersOfTwo:
      return R"({"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"})";
    case Declared::kModeloptFp8:
      return R"({"quant_method": "modelopt", "quant_algo": "FP8"})";
    case Declared::kModeloptNvfp4:
      return R"({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]})";
    case Declared::kFloatQuantized:
      return R"({"quant_method": "compressed-tensors", "format": "float-quantized"})";
    case Declared::kGroups:
      return fmt::format(R"({{"quant_method": "compressed-tensors", "config_groups": {{{}}}}})",
                         groups_of(draw.strategies));
    case Declared::kCtNvfp4:
      return fmt::format(
          R"({{"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {{{}}}}})",
          groups_of(0));
    default:
      return "";
  }
}

std::string quant_file(Declared declared) {
  if (declared == Declared::kModeloptFileFp8)
    return R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}})";
  if (declared == Declared::kModeloptFileNvfp4)
    return R"({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}})";
  return "";
}

/// Section 3.8: which scales of FP8 the declaration allows.
void allow_scales(const StoreDraw& draw, StoredModel& model) {
  const Declared declared = draw.declared;
  const bool groups = declared == Declared::kGroups;
  const bool whole = declared == Declared::kModeloptFp8 || declared == Declared::kModeloptFileFp8;
  const bool plain_ct = declared == Declared::kFloatQuantized;
  model.block_scales = groups ? (draw.strategies & 1) != 0 : !whole && !plain_ct;
  model.row_scales = plain_ct || (groups && (draw.strategies & 2) != 0);
  model.tensor_scales = whole || plain_ct || (groups && (draw.strategies & 4) != 0);
  model.u8_scales = declared == Declared::kFp8PowersOfTwo;
}

/// Stores one module after the other.
class Writer {
 public:
  Writer(const StoreDraw& draw, StoredModel& model) : draw_(draw), model_(model) {}

  void write(const LogicalTensor& tensor, bool mtp) {
    mtp_ = mtp;
    const FormDraw form = form_of(tensor);
    switch (form.kind) {
      case Kind::kFp8:
        return fp8(tensor, form);
      case Kind::kNvfp4Modelopt:
      case Kind::kNvfp4Ct:
        return nvfp4(tensor, form);
      default:
        return plain(tensor, form.kind);
    }
  }

 private:
  /// What the palette says, or what comes nearest of that which may be.
  [[nodiscard]] FormDraw form_of(const LogicalTensor& tensor) const {
    FormDraw form = draw_.palette[Numbers(0, tensor.name).next() % draw_.palette.size()];
    const bool quantizable = tensor.role == Role::kProjection;
    if (form.kind >= Kind::kNvfp4Modelopt && tensor.cols % kGroup != 0) form.kind = Kind::kFp8;
    if (form.kind >= Kind::kFp8 && !quantizable) form.kind = Kind::kBf16;
    if (form.scale_type == 3 && !model_.u8_scales) form.scale_type = 2;
    const bool allowed[] = {model_.block_scales, model_.row_scales, model_.tensor_scales,
                            model_.tensor_scales};
    for (int64_t i = 0; i < 4 && !allowed[form.scale_shape]; ++i)
      form.scale_shape = (form.scale_shape + 1) % 4;
    return form;
  }

  std::string& add(Use use, const std::string& name, std::string_view dtype, std::vector<int64_t> shape) {
    StoredTensor& stored = model_.tensors.emplace_back();
    stored = {.tensor = {name, std::string(dtype), std::move(shape), {}}, .use = use, .mtp = mtp_};
    return stored.tensor.data;
  }
  std::string& add_weight(const LogicalTensor& tensor, const std::string& name, std::string_view dtype,
                          std::vector<int64_t> shape, bool quantized) {
    std::string& data = add(Use::kWeight, name, dtype, std::move(shape));
    model_.tensors.back().projection = tensor.role == Role::kProjection;
    model_.tensors.back().quantized = quantized;
    weight_ = name;
    return data;
  }
  std::string& add_scale(const LogicalTensor& tensor, std::string_view component, std::string_view dtype,
                         std::vector<int64_t> shape, Use use = Use::kScale) {
    std::string& data = add(use, module_of(tensor.name) + std::string(component), dtype, std::move(shape));
    model_.tensors.back().weight = weight_;
    return data;
  }
  Table& table_for(const LogicalTensor& tensor) {
    return model_.tables[tensor.name] = Table(tensor.rows, tensor.cols);
  }

  void plain(const LogicalTensor& tensor, Kind kind) {
    constexpr std::string_view kTypes[] = {"F32", "BF16", "F16"};
    const bool vector = tensor.role == Role::kNorm || tensor.role == Role::kBias;
    std::vector<int64_t> shape = {tensor.cols};
    if (!vector) shape.insert(shape.begin(), tensor.rows);
    std::string& data =
        add_weight(tensor, tensor.name, kTypes[static_cast<size_t>(kind)], shape, /*quantized=*/false);
    Table& table = table_for(tensor);
    constexpr double (*kPut[])(std::string&, double) = {put_f32, put_bf16, put_f16};
    for (size_t i = 0; i < tensor.values.size(); ++i)
      table.data[i] = kPut[static_cast<size_t>(kind)](data, tensor.values[i]);
  }

  /// Appends the least scale that brings `largest` into e4m3's range; returns it as it is stored.
  static double put_scale(std::string& data, int64_t type, double largest) {
    const double least = largest / kLargestE4m3;
    if (type == 0) return put_f32(data, least);
    if (type == 1) return put_bf16(data, least);
    const uint8_t code = encode_e8m0_above(least);
    data += static_cast<char>(code);
    return std::ldexp(1.0, code - 127);
  }

  void fp8(const LogicalTensor& tensor, const FormDraw& form) {
    const int64_t rows = tensor.rows;
    const int64_t cols = tensor.cols;
    const int64_t heights[] = {kBlock, 1, rows, rows};
    const int64_t widths[] = {kBlock, cols, cols, cols};
    const int64_t height = heights[form.scale_shape];
    const int64_t width = widths[form.scale_shape];
    const int64_t grid_rows = (rows + height - 1) / height;
    const int64_t grid_cols = (cols + width - 1) / width;
    const std::vector<int64_t> shapes[] = {{grid_rows, grid_cols}, {rows, 1}, {}, {1}};

    std::string scale_data;
    std::vector<double> scales;
    for (int64_t block = 0; block < grid_rows * grid_cols; ++block) {
      double largest = 0;
      for (int64_t r = block / grid_cols * height; r < std::min(rows, (block / grid_cols + 1) * height);
           ++r) {
        for (int64_t c = block % grid_cols * width; c < std::min(cols, (block % grid_cols + 1) * width); ++c)
          largest = std::max(largest, std::abs(tensor.values[static_cast<size_t>(r * cols + c)]));
      }
      scales.push_back(put_scale(scale_data, form.scale_type, largest));
    }
    Table& table = table_for(tensor);
    std::string codes;
    for (int64_t i = 0; i < rows * cols; ++i) {
      const double scale = scales[static_cast<size_t>(i / cols / height * grid_cols + i % cols / width)];
      const auto at = static_cast<size_t>(i);
      const uint8_t code = encode_e4m3(scale == 0 ? 0 : tensor.values[at] / scale);
      codes += static_cast<char>(code);
      // A kernel rounds the product, or a sum times the scale, once.
      table.data[at] = reference::rounded(Real(decode_e4m3(code) * scale));
    }
    add_weight(tensor, tensor.name, "F8_E4M3", {rows, cols}, /*quantized=*/true) = codes;
    const bool inverse = form.scale_shape == 0 && !form.other_spelling;
    add_scale(tensor, inverse ? "weight_scale_inv" : "weight_scale",
              kScaleTypes[static_cast<size_t>(form.scale_type)], shapes[form.scale_shape]) = scale_data;
    if (form.input_scale) put_f32(add_scale(tensor, "input_scale", "F32", {}, Use::kInputScale), 0.25);
  }

  void nvfp4(const LogicalTensor& tensor, const FormDraw& form) {
    const bool modelopt = form.kind == Kind::kNvfp4Modelopt;
    double largest = 0;
    for (const double value : tensor.values) largest = std::max(largest, std::abs(value));
    const double wanted = largest == 0 ? 1 : largest / kLargestE4m3 / kLargestE2m1;
    std::string global_data;
    const double stored = put_f32(global_data, modelopt ? wanted : 1 / wanted);
    const double global = modelopt ? stored : 1 / stored;

    std::string scales;
    std::string codes;
    Table& table = table_for(tensor);
    uint8_t pair = 0;
    for (size_t i = 0; i < tensor.values.size(); ++i) {
      if (i % kGroup == 0) {
        double most = 0;
        for (size_t j = i; j < i + kGroup; ++j) most = std::max(most, std::abs(tensor.values[j]));
        scales += static_cast<char>(encode_e4m3_above(most / kLargestE2m1 / global));
      }
      const double scale = decode_e4m3(static_cast<uint8_t>(scales.back()));
      const uint8_t code = encode_e2m1(scale == 0 ? 0 : tensor.values[i] / scale / global);
      pair = static_cast<uint8_t>(i % 2 == 0 ? code : pair | code << 4);
      if (i % 2 == 1) codes += static_cast<char>(pair);
      // Kernels round the factor of the matrix to f32, and then the product.
      table.data[i] = reference::rounded(Real(decode_e2m1(code) * scale * global), 2);
    }
    const std::string module = module_of(tensor.name);
    add_weight(tensor, module + (modelopt ? "weight" : "weight_packed"), "U8", {tensor.rows, tensor.cols / 2},
               /*quantized=*/true) = codes;
    add_scale(tensor, "weight_scale", "F8_E4M3", {tensor.rows, tensor.cols / kGroup}) = scales;
    std::vector<int64_t> single;
    if (modelopt == form.other_spelling) single.push_back(1);
    add_scale(tensor, modelopt ? "weight_scale_2" : "weight_global_scale", "F32", single) = global_data;
    if (form.input_scale) {
      put_f32(
          add_scale(tensor, modelopt ? "input_scale" : "input_global_scale", "F32", single, Use::kInputScale),
          0.25);
    }
  }

  const StoreDraw& draw_;
  StoredModel& model_;
  bool mtp_ = false;
  std::string weight_;
};

/// wk's rows, then those of weights_proj.
LogicalTensor fuse(const LogicalTensor& wk, const LogicalTensor& weights_proj) {
  LogicalTensor fused = wk;
  fused.name =
      module_of(module_of(wk.name).substr(0, module_of(wk.name).size() - 1)) + "wk_weights_proj.weight";
  fused.rows += weights_proj.rows;
  fused.values.insert(fused.values.end(), weights_proj.values.begin(), weights_proj.values.end());
  return fused;
}

void add_ignored(const ModelDraw& model, int64_t which, StoredModel& stored) {
  const auto add = [&](int64_t bit, const std::string& name) {
    if ((which >> bit & 1) == 0) return;
    stored.tensors.push_back({.tensor = counting(name, DType::kBf16, {2}), .use = Use::kIgnored});
  };
  add(0, "model.layers.0.self_attn.rotary_emb.inv_freq");
  add(1, "model.layers.0.self_attn.k_scale");
  for (int64_t i = 0; model.sparse() && i < model.num_layers; ++i) {
    if (!model.full_indexer[static_cast<size_t>(i)])
      add(2, fmt::format("model.layers.{}.self_attn.indexer.wk.weight", i));
  }
}

}  // namespace

StoreDraw draw_store(const Pick& pick, const ModelDraw& model) {
  StoreDraw draw;
  draw.declared = static_cast<Declared>(pick(0, 9));
  draw.strategies = pick(1, 7);
  const int64_t colours = pick(1, 8);
  for (int64_t i = 0; i < colours; ++i) {
    FormDraw& form = draw.palette.emplace_back();
    form.kind = static_cast<Kind>(pick(0, 5));
    form.scale_type = pick(0, 3);
    form.scale_shape = pick(0, 3);
    form.other_spelling = pick(0, 1) == 1;
    form.input_scale = pick(0, 1) == 1;
  }
  if (model.sparse()) draw.fused_layers = pick(0, (2 << model.num_layers) - 1);
  draw.ignored = pick(0, 7);
  return draw;
}

std::string in_words(const StoreDraw& draw) {
  std::vector<std::string> forms;
  for (const FormDraw& form : draw.palette) {
    std::string text(kKinds[static_cast<size_t>(form.kind)]);
    if (form.kind == Kind::kFp8)
      text += fmt::format(" {} {}", kScaleTypes[static_cast<size_t>(form.scale_type)],
                          kScaleShapes[static_cast<size_t>(form.scale_shape)]);
    if (form.other_spelling) text += " (other spelling)";
    if (form.input_scale) text += " +input scale";
    forms.push_back(text);
  }
  const std::string declared = declaration(draw) + quant_file(draw.declared);
  return fmt::format("stored as: {}\n  declared: {}\n  fused layers: {:b}, ignored tensors: {:b}",
                     fmt::join(forms, "; "), declared.empty() ? "nothing" : declared, draw.fused_layers,
                     draw.ignored);
}

StoredModel store(const ModelDraw& model, const StoreDraw& draw, int attempt) {
  StoredModel stored;
  allow_scales(draw, stored);
  Writer writer(draw, stored);
  const std::vector<LogicalTensor> tensors = logical_tensors(model, attempt);
  const std::string mtp = fmt::format("model.layers.{}.", model.num_layers);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    const bool is_mtp = name.starts_with(mtp);
    bool fused = false;
    if (name.ends_with(".indexer.wk.weight")) {
      for (int64_t layer = 0; layer <= model.num_layers; ++layer)
        fused = fused || ((draw.fused_layers >> layer & 1) != 0 &&
                          name.starts_with(fmt::format("model.layers.{}.", layer)));
    }
    if (fused) {
      writer.write(fuse(tensors[i], tensors[i + 1]), is_mtp);
      ++i;
    } else {
      writer.write(tensors[i], is_mtp);
    }
  }
  add_ignored(model, draw.ignored, stored);
  std::vector<std::string> fields = config_fields(model);
  if (const std::string declared = declaration(draw); !declared.empty())
    fields.push_back(fmt::format("\"quantization_config\": {}", declared));
  stored.config = fmt::format("{{{}}}", fmt::join(fields, ", "));
  stored.quant_config = quant_file(draw.declared);
  return stored;
}

}  // namespace fulgur::property
