#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "checkpoint/parameter.h"
#include "checkpoint/storage_form.h"

namespace fulgur {

/// What a whole checkpoint is written as. Each follows a published release in what is quantized and what
/// stays as it is (docs/spec/checkpoints.md, section 3):
///
///   kBf16           nothing is quantized
///   kFp8Block       DeepSeek-V3.2: every projection but the indexer's separate weights_proj; the fused
///                   projection is quantized whole (3.3, 3.4)
///   kNvfp4Modelopt  what Recipe::fp4 says, in the spelling of 3.6
///   kNvfp4Ct        the same, in the spelling of 3.7
///
/// The MTP layer is a layer like any other in all of them.
enum class TargetForm : uint8_t { kBf16, kFp8Block, kNvfp4Modelopt, kNvfp4Ct };
inline constexpr TargetForm kTargetForms[] = {TargetForm::kBf16, TargetForm::kFp8Block,
                                              TargetForm::kNvfp4Modelopt, TargetForm::kNvfp4Ct};

/// "bf16", "fp8-block", "nvfp4-modelopt", "nvfp4-ct"
std::string_view name(TargetForm form);

/// How kFp8Block's scales are chosen and stored (3.5).
enum class BlockScales : uint8_t {
  kF32,
  kF32Pow2,  // powers of two, in f32
  kE8m0,     // powers of two, a byte each
};

/// Which modules are NVFP4 varies by the model that is released, not by the spelling (3.7).
enum class Fp4Modules : uint8_t {
  kRoutedExperts,  // GLM-5.2-NVFP4
  kExperts,        // DeepSeek-V3.2-NVFP4: and shared experts
  kMlps,           // DeepSeek-R1-NVFP4: and dense MLPs
};

struct Recipe {
  TargetForm form = TargetForm::kBf16;
  BlockScales scales = BlockScales::kF32;
  bool keeps_scales = false;  // blocks that are stored keep theirs as they are, `scales` is for new ones
  Fp4Modules fp4 = Fp4Modules::kExperts;  // model/published_recipe.h knows which
};

/// A tensor of a checkpoint that is to be.
struct StoredTensor {
  std::string name;
  DType dtype{};
  std::vector<int64_t> shape;
};
uint64_t size_bytes(const StoredTensor& tensor);

/// A part of a parameter as it is stored.
struct StoredPart {
  const StorageForm* form = nullptr;  // a row of kStorageForms
  /// The weight, then its scales in the order of form->scales: of each role one, by its first spelling.
  /// Scales of activations, which may be absent, are not among them.
  std::vector<StoredTensor> tensors;
};

/// The form in which `recipe` stores a part of a parameter; a form with scales only where the parameter is
/// `quantizable`. All other matrices, and those with rows that NVFP4's groups don't fill, are bf16. Vectors
/// are bf16, but for the router's correction bias, which is f32 in every release.
const StorageForm& recipe_form(const Recipe& recipe, const Part& part, bool quantizable);
/// The tensors of a part in a form; of FP8 the form with blocks.
StoredPart store_as(const StorageForm& form, const Part& part, BlockScales scales = BlockScales::kF32);
/// Both in one.
StoredPart stored_part(const Recipe& recipe, const Part& part, bool quantizable);

/// The row of kStorageForms with this label.
const StorageForm& storage_form(std::string_view label);

/// The value of config.json's `quantization_config` that goes with a recipe, as JSON; empty where there is
/// none. `plain_modules`: the matrices that are not quantized, without ".weight" ("lm_head"), sorted.
/// `input_scales`: every NVFP4 matrix has a scale of its activations; else none has, and the weights alone
/// are said to be quantized.
std::string quantization_config_text(const Recipe& recipe, std::span<const std::string> plain_modules,
                                     bool input_scales);
/// The text of hf_quant_config.json; empty where there is none.
std::string hf_quant_config_text(const Recipe& recipe, std::span<const std::string> plain_modules);

}  // namespace fulgur
