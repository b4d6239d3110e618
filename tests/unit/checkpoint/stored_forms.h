#pragma once

#include <cmath>
#include <random>

#include "checkpoint/fp8_scheme.h"
#include "support/checkpoint_files.h"

namespace fulgur {

/// The formats from their definitions in docs/spec/checkpoints.md, section 1.
inline double e4m3_value(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}
inline double e2m1_value(int code) {
  constexpr double kMagnitudes[] = {0, .5, 1, 1.5, 2, 3, 4, 6};
  return (code & 8) != 0 ? -kMagnitudes[code & 7] : kMagnitudes[code & 7];
}

/// A bf16 nearest to a value, ties to even, found by trying the neighbours.
inline float nearest_bf16(double value) {
  const auto bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(value)) >> 16);
  float best = to_float({bits});
  for (const int step : {-1, 1}) {
    const auto neighbour = static_cast<uint16_t>(bits + step);
    const double gain = std::abs(best - value) - std::abs(to_float({neighbour}) - value);
    if (gain > 0 || (gain == 0 && neighbour % 2 == 0)) best = to_float({neighbour});
  }
  return best;
}

/// A module's weight as a test's checkpoint stores it: its tensors, what the fields must declare for them,
/// and the values that they stand for.
struct StoredForm {
  std::string name;
  Fp8Scheme fp8;
  std::vector<TestTensor> tensors;
  std::vector<double> values;  // row by row
};

/// The ways to store [rows, cols] (cols a multiple of 16): every row of kStorageForms with every spelling,
/// type and shape of its scales.
inline const std::vector<std::string> kFormNames = {"bf16",
                                                    "f16",
                                                    "f32",
                                                    "fp8_block",
                                                    "fp8_block_named_weight_scale",
                                                    "fp8_block_bf16_scales",
                                                    "fp8_block_e8m0_scales",
                                                    "fp8_block_u8_scales",
                                                    "fp8_row",
                                                    "fp8_tensor_scalar",
                                                    "fp8_tensor_of_one",
                                                    "nvfp4_modelopt",
                                                    "nvfp4_modelopt_without_input_scale",
                                                    "nvfp4_ct",
                                                    "nvfp4_ct_scalar"};

class FormWriter {
 public:
  FormWriter(std::string module, int64_t rows, int64_t cols, unsigned seed)
      : module_(std::move(module)), rows_(rows), cols_(cols), random_(seed) {}

  StoredForm write(const std::string& name) {
    form_.name = name;
    if (name.starts_with("fp8")) {
      fp8(name);
    } else if (name.starts_with("nvfp4")) {
      nvfp4(name);
    } else {
      plain(name);
    }
    return std::move(form_);
  }

 private:
  std::string& add(const std::string& component, const std::string& dtype, std::vector<int64_t> shape) {
    form_.tensors.push_back({module_ + "." + component, dtype, std::move(shape), {}});
    return form_.tensors.back().data;
  }
  template <typename T>
  static void put(std::string& data, T value) {
    data.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  float positive() { return 0.001F * static_cast<float>(1 + random_() % 1000); }

  void plain(const std::string& name) {
    std::string& data = add("weight",
                            name == "bf16"  ? "BF16"
                            : name == "f16" ? "F16"
                                            : "F32",
                            {rows_, cols_});
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      const auto bits = static_cast<uint16_t>(0x3000 + random_() % 0x1000);  // small in all three
      if (name == "bf16") {
        put(data, bits);
        form_.values.push_back(to_float(Bf16{bits}));
      } else if (name == "f16") {
        put(data, bits);
        form_.values.push_back(half_to_float(bits));
      } else {
        put(data, positive());
        float value = 0;
        std::memcpy(&value, data.data() + data.size() - sizeof value, sizeof value);
        form_.values.push_back(value);
      }
    }
  }

  /// One scale of the type that the form's name asks for, as it is read back.
  double put_scale(std::string& data, const std::string& dtype) {
    if (dtype == "F32") {
      const float value = positive();
      put(data, value);
      return value;
    }
    if (dtype == "BF16") {
      const Bf16 value = to_bf16(positive());
      put(data, value);
      return to_float(value);
    }
    const auto code = static_cast<uint8_t>(100 + random_() % 40);
    put(data, code);
    return std::ldexp(1.0, code - 127);
  }

  void fp8(const std::string& name) {
    int64_t block_rows = 128;
    int64_t block_cols = 128;
    std::vector<int64_t> shape = {(rows_ + 127) / 128, (cols_ + 127) / 128};
    std::string dtype = "F32";
    std::string component = "weight_scale_inv";
    if (name.ends_with("bf16_scales")) dtype = "BF16";
    if (name.ends_with("e8m0_scales")) dtype = "F8_E8M0";
    if (name.ends_with("u8_scales")) dtype = "U8";
    form_.fp8.u8_scales = dtype == "U8";
    if (!name.starts_with("fp8_block") || name.ends_with("weight_scale")) component = "weight_scale";
    if (name == "fp8_row") {
      form_.fp8 = {.block_scales = false, .row_scales = true};
      block_rows = 1;
      block_cols = cols_;
      shape = {rows_, 1};
    } else if (name.starts_with("fp8_tensor")) {
      form_.fp8 = {.block_scales = false, .tensor_scales = true};
      block_rows = rows_;
      block_cols = cols_;
      shape.clear();
      if (name == "fp8_tensor_of_one") shape = {1};
      put(add("input_scale", "F32", shape), positive());
    }
    std::vector<uint8_t> codes;
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      const auto code = static_cast<uint8_t>(random_());
      codes.push_back((code & 0x7f) == 0x7f ? 0x3a : code);
    }
    add("weight", "F8_E4M3", {rows_, cols_}) = {codes.begin(), codes.end()};
    const int64_t grid_cols = (cols_ + block_cols - 1) / block_cols;
    std::vector<double> scales;
    std::string& data = add(component, dtype, shape);
    for (int64_t i = 0; i < (rows_ + block_rows - 1) / block_rows * grid_cols; ++i)
      scales.push_back(put_scale(data, dtype));
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      const int64_t block = i / cols_ / block_rows * grid_cols + i % cols_ / block_cols;
      form_.values.push_back(e4m3_value(codes[static_cast<size_t>(i)]) * scales[static_cast<size_t>(block)]);
    }
  }

  void nvfp4(const std::string& name) {
    const bool modelopt = name.starts_with("nvfp4_modelopt");
    std::vector<uint8_t> codes;
    std::vector<uint8_t> scales;
    for (int64_t i = 0; i < rows_ * cols_ / 2; ++i) codes.push_back(static_cast<uint8_t>(random_()));
    // 0 may stand over codes of 0 alone.
    for (int64_t i = 0; i < rows_ * cols_ / 16; ++i)
      scales.push_back(static_cast<uint8_t>(1 + random_() % 0x7e));
    add(modelopt ? "weight" : "weight_packed", "U8", {rows_, cols_ / 2}) = {codes.begin(), codes.end()};
    add("weight_scale", "F8_E4M3", {rows_, cols_ / 16}) = {scales.begin(), scales.end()};
    const float global = modelopt ? positive() : 1000 * positive();
    std::vector<int64_t> shape = {1};
    if (name == "nvfp4_modelopt" || name == "nvfp4_ct_scalar") shape.clear();
    put(add(modelopt ? "weight_scale_2" : "weight_global_scale", "F32", shape), global);
    if (name == "nvfp4_modelopt") put(add("input_scale", "F32", {}), positive());
    if (name == "nvfp4_ct") put(add("input_global_scale", "F32", {1}), positive());
    const double factor = modelopt ? static_cast<double>(global) : 1 / static_cast<double>(global);
    for (int64_t i = 0; i < rows_ * cols_; ++i) {
      const int pair = codes[static_cast<size_t>(i / 2)];
      form_.values.push_back(e2m1_value(i % 2 == 0 ? pair & 15 : pair >> 4) *
                             e4m3_value(scales[static_cast<size_t>(i / 16)]) * factor);
    }
  }

  std::string module_;
  int64_t rows_;
  int64_t cols_;
  std::mt19937 random_;
  StoredForm form_;
};

inline StoredForm stored_as(const std::string& form, const std::string& module, int64_t rows, int64_t cols,
                            unsigned seed = 1) {
  return FormWriter(module, rows, cols, seed).write(form);
}

}  // namespace fulgur
