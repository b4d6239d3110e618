#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/dtype.h"
#include "base/weight.h"

namespace fulgur {

/// What a tensor beside a quantized weight says.
enum class ScaleRole {
  kBlocks,       // FP8: multipliers of blocks, rows or the whole matrix (Fp8Scheme)
  kGroups,       // NVFP4: a multiplier for every 16 columns of a row, [n, m / 16]
  kFactor,       // NVFP4: a multiplier of the whole matrix, [] or [1]
  kDivisor,      // NVFP4: the same, to divide by
  kActivations,  // of the inputs, for kernels that quantize those: checked and ignored, may be absent, [] or
                 // [1]
};

/// A tensor beside a module's weight, by its last component. Two of one role are two spellings of the same.
struct ScaleSpelling {
  std::string_view name;
  ScaleRole role;
};

inline constexpr std::array<ScaleSpelling, 3> kFp8Scales = {{{"weight_scale_inv", ScaleRole::kBlocks},
                                                             {"weight_scale", ScaleRole::kBlocks},
                                                             {"input_scale", ScaleRole::kActivations}}};
inline constexpr std::array<ScaleSpelling, 3> kModeloptScales = {{{"weight_scale", ScaleRole::kGroups},
                                                                  {"weight_scale_2", ScaleRole::kFactor},
                                                                  {"input_scale", ScaleRole::kActivations}}};
inline constexpr std::array<ScaleSpelling, 3> kCompressedTensorsScales = {
    {{"weight_scale", ScaleRole::kGroups},
     {"weight_global_scale", ScaleRole::kDivisor},
     {"input_global_scale", ScaleRole::kActivations}}};

/// FP8: a scale covers so many rows and columns (3.3); any other weight_block_size is refused.
inline constexpr int64_t kFp8Block = 128;

/// A way to store a module's weight (docs/spec/checkpoints.md, section 3): adding a published form is adding
/// a row. A form with scales may stand for Parameter::quantizable only.
struct StorageForm {
  std::string_view label;   // for people
  std::string_view weight;  // the last component of the tensor that stands for <module>.weight
  DType dtype;              // of that tensor
  WeightForm form;          // what kernels call it
  std::span<const ScaleSpelling> scales;
};

inline constexpr std::array<StorageForm, 6> kStorageForms = {{
    {"bf16", "weight", DType::kBf16, WeightForm::kBf16, {}},
    {"f16", "weight", DType::kF16, WeightForm::kF16, {}},
    {"f32", "weight", DType::kF32, WeightForm::kF32, {}},
    {"fp8", "weight", DType::kF8E4M3, WeightForm::kFp8, kFp8Scales},                          // 3.3, 3.8
    {"nvfp4-modelopt", "weight", DType::kU8, WeightForm::kNvfp4, kModeloptScales},            // 3.6
    {"nvfp4-ct", "weight_packed", DType::kU8, WeightForm::kNvfp4, kCompressedTensorsScales},  // 3.7
}};

}  // namespace fulgur
