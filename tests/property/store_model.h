#pragma once

#include <map>
#include <string>
#include <vector>

#include "property/draw_model.h"
#include "reference/table.h"
#include "support/checkpoint_files.h"

namespace fulgur::property {

/// What the quantization fields declare, in one of the ways that exporters do.
enum class Declared {
  kNothing,
  kFp8Blocks,        // quant_method fp8 with weight_block_size
  kFp8PowersOfTwo,   // with scale_fmt ue8m0, U8 scales being E8M0
  kModeloptFp8,      // in config.json
  kModeloptFileFp8,  // in hf_quant_config.json
  kModeloptFileNvfp4,
  kModeloptNvfp4,
  kFloatQuantized,  // compressed-tensors without groups
  kGroups,          // compressed-tensors, a group for each strategy of `strategies`
  kCtNvfp4,
};

enum class Kind { kF32, kBf16, kF16, kFp8, kNvfp4Modelopt, kNvfp4Ct };

/// How one module is stored, as far as its shape and the declaration let it be.
struct FormDraw {
  Kind kind{};
  int64_t scale_type = 0;       // of FP8: f32, bf16, e8m0, u8
  int64_t scale_shape = 0;      // of FP8: blocks, rows, [], [1]
  bool other_spelling = false;  // FP8: weight_scale for weight_scale_inv; NVFP4: [1] for [] and the reverse
  bool input_scale = false;
};

struct StoreDraw {
  Declared declared{};
  int64_t strategies = 1;         // bits: block, channel, tensor
  std::vector<FormDraw> palette;  // each module takes one of these
  int64_t fused_layers = 0;       // bits: which layers' indexers are stored fused; the MTP layer's too
  int64_t ignored = 0;            // bits: kinds of tensors that are to be ignored
};

StoreDraw draw_store(const Pick& pick, const ModelDraw& model);
std::string in_words(const StoreDraw& draw);

/// A tensor of the checkpoint, and what it is there for.
struct StoredTensor {
  enum class Use { kWeight, kScale, kInputScale, kIgnored };
  TestTensor tensor;
  Use use{};
  std::string weight;       // of a scale: the tensor that it scales
  bool projection = false;  // a weight that may be quantized
  bool quantized = false;   // a weight that is
  bool mtp = false;         // of the MTP layer
};

struct StoredModel {
  std::vector<StoredTensor> tensors;
  /// What they stand for: "model.layers.0.mlp.up_proj.weight" -> exact products of codes and scales, each
  /// with the roundings that its form costs a kernel. A fused projection under its own name.
  std::map<std::string, reference::Table> tables;
  std::string config;        // config.json
  std::string quant_config;  // hf_quant_config.json; empty: none
  bool block_scales = false;
  bool row_scales = false;
  bool tensor_scales = false;
  bool u8_scales = false;
};

/// "a.b.weight" -> "a.b."
inline std::string module_of(const std::string& name) { return name.substr(0, name.rfind('.') + 1); }

StoredModel store(const ModelDraw& model, const StoreDraw& draw, int attempt);

}  // namespace fulgur::property
