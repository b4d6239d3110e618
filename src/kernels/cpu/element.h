#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/weight.h"
#include "kernels/cpu/code_tables.h"

namespace fulgur::cpu {

/// IEEE half precision as stored; base/dtype.h has Bf16.
struct F16 {
  uint16_t bits = 0;
};

/// A code of FP8.
struct E4m3 {
  uint8_t code = 0;
};

inline float to_float(float value) { return value; }
inline float to_float(Bf16 value) { return fulgur::to_float(value); }
inline float to_float(F16 value) { return half_to_float(value.bits); }

inline float to_float(E4m3 value) { return kE4m3Values[value.code]; }

template <typename Out>
Out from_float(float value) {
  if constexpr (sizeof(Out) == sizeof(float))
    return value;
  else
    return to_bf16(value);
}

/// Calls f(T{}) with the C++ type of a plain form's elements: Bf16, F16 or float.
template <typename F>
decltype(auto) with_element(WeightForm form, F&& f) {
  if (form == WeightForm::kBf16) return f(Bf16{});
  if (form == WeightForm::kF16) return f(F16{});
  return f(float{});
}

/// The same for an operand's dtype, bf16 or f32.
template <typename F>
decltype(auto) with_operand(DType dtype, F&& f) {
  if (dtype == DType::kBf16) return f(Bf16{});
  return f(float{});
}

/// The same for index keys and the queries that meet them, which may be FP8 codes too.
template <typename F>
decltype(auto) with_key(DType dtype, F&& f) {
  if (dtype == DType::kF8E4M3) return f(E4m3{});
  return with_operand(dtype, f);
}

}  // namespace fulgur::cpu
