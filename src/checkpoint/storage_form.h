#pragma once

#include <array>
#include <string_view>

#include "base/dtype.h"

namespace fulgur {

/// A way to store a module's weight (docs/spec/checkpoints.md, section 3): adding a published form is adding
/// a row. A quantized form has scales beside it and may stand for Parameter::quantizable only.
struct StorageForm {
  std::string_view weight;  // the last component of the tensor that stands for <module>.weight
  DType dtype;              // of that tensor
  bool quantized;
};

inline constexpr std::array<StorageForm, 6> kStorageForms = {{
    {"weight", DType::kBf16, false},
    {"weight", DType::kF16, false},
    {"weight", DType::kF32, false},
    {"weight", DType::kF8E4M3, true},     // FP8 blocks, 3.3 to 3.5 and 3.8
    {"weight", DType::kU8, true},         // NVFP4 of modelopt, 3.6
    {"weight_packed", DType::kU8, true},  // NVFP4 of compressed-tensors, 3.7
}};

/// The last components of the scales that the quantized forms keep beside a module's weight.
inline constexpr std::array<std::string_view, 6> kScaleNames = {"weight_scale_inv", "weight_scale",
                                                                "weight_scale_2",   "weight_global_scale",
                                                                "input_scale",      "input_global_scale"};

}  // namespace fulgur
