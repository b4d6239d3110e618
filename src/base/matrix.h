#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/dtype.h"

namespace fulgur {

/// A row-major view, `stride` elements from one row to the next. Owns nothing; in an op it is back-end
/// memory, which only the back end dereferences.
template <typename T>
struct Matrix {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  Matrix() = default;
  Matrix(T* data, int64_t rows, int64_t cols) : data(data), rows(rows), cols(cols), stride(cols) {}
  Matrix(T* data, int64_t rows, int64_t cols, int64_t stride)
      : data(data), rows(rows), cols(cols), stride(stride) {}
  // NOLINTNEXTLINE(google-explicit-constructor): a writable view is also a read-only one
  operator Matrix<const T>() const requires(!std::is_const_v<T>) { return {data, rows, cols, stride}; }

  [[nodiscard]] constexpr T* row(int64_t r) const { return data + r * stride; }
};

/// The operand of a product: activations rounded once, by the op that makes them, to bf16 (`--precision
/// native`) or not at all, f32 (`full`). [rows, cols], `stride` elements from row to row. The indexer's
/// queries may be e4m3 codes, in the form of its keys.
struct Operand {
  void* data = nullptr;
  DType dtype = DType::kBf16;  // kBf16, kF32 or (queries beside FP8 keys) kF8E4M3
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  template <typename T>
  [[nodiscard]] constexpr T* row(int64_t r) const {
    return static_cast<T*>(data) + r * stride;
  }
};

}  // namespace fulgur
