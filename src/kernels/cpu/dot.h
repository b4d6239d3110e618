#pragma once

// The innermost step of every product with a stored weight: for each pair of a stored weight type and a
// packed activation type, how many k one step takes and how it adds their products to a vector of partial
// sums. Lane l always sums the same k of a row, in ascending order, and sum4() adds the lanes in one tree:
// that is the element's sequence of roundings.

#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Rows of a plain weight, from some row and column on.
template <typename T>
struct StoredRows {
  const T* data;
  int64_t stride;

  static StoredRows of(const Weight& w) { return {static_cast<const T*>(w.data), w.cols}; }
  [[nodiscard]] StoredRows at(int64_t row, int64_t k) const { return {data + row * stride + k, stride}; }
};

/// f32 activations against f16 or f32 weights, in their natural order.
template <typename W>
struct WideDot {
  using Stored = W;
  using Rows = StoredRows<W>;
  using Packed = float;
  static constexpr int kStep = kLanes;
  static constexpr int kParts = 1;

  template <int kPart>
  static Vec load_x(const float* x) {
    return load(x);
  }
  template <int kPart>
  static Vec load_w(const W* w) {
    return load(w);
  }
  static Vec add(Vec w, Vec x, Vec sums) { return fma(w, x, sums); }

  static void panel_row(const Rows& from, int64_t cols, float* out) { pack_row(from.data, cols, out); }
  template <typename X>
  static void pack_row(const X* x, int64_t cols, float* out) {
    for (int64_t i = 0; i < cols; i += kLanes)
      store(out + i, load(x + i, static_cast<int>(std::min<int64_t>(kLanes, cols - i))));
  }
};

/// f32 activations against bf16 weights: the even k of a step, then the odd ones, so that a weight takes one
/// shift or mask to widen. Activations are packed in the same order, kLanes even ones before kLanes odd ones.
struct SplitDot {
  using Stored = Bf16;
  using Rows = StoredRows<Bf16>;
  using Packed = float;
  static constexpr int kStep = 2 * kLanes;
  static constexpr int kParts = 2;

  template <int kPart>
  static Vec load_x(const float* x) {
    return load(x + kPart * kLanes);
  }
  template <int kPart>
  static Vec load_w(const Bf16* w) {
    return kPart == 0 ? load_even(w) : load_odd(w);
  }
  static Vec add(Vec w, Vec x, Vec sums) { return fma(w, x, sums); }

  static void panel_row(const Rows& from, int64_t cols, float* out) { pack_row(from.data, cols, out); }
  template <typename X>
  static void pack_row(const X* x, int64_t cols, float* out) {
    int64_t i = 0;
    for (; i + kStep <= cols; i += kStep) {
      store(out + i, load_even(x + i));
      store(out + i + kLanes, load_odd(x + i));
    }
    if (i < cols) {
      X tail[kStep] = {};
      std::memcpy(tail, x + i, static_cast<size_t>(cols - i) * sizeof(X));
      store(out + i, load_even(tail));
      store(out + i + kLanes, load_odd(tail));
    }
  }
};

#if defined(FULGUR_CPU_BF16_DOT)
/// bf16 activations against bf16 weights, both as they lie in memory.
struct PairDot {
  using Stored = Bf16;
  using Rows = StoredRows<Bf16>;
  using Packed = Bf16;
  static constexpr int kStep = 2 * kLanes;
  static constexpr int kParts = 1;

  template <int kPart>
  static BfVec load_x(const Bf16* x) {
    return load_bf16(x);
  }
  template <int kPart>
  static BfVec load_w(const Bf16* w) {
    return load_bf16(w);
  }
  static Vec add(BfVec w, BfVec x, Vec sums) { return dot(w, x, sums); }

  static void pack_row(const Bf16* x, int64_t cols, Bf16* out) {
    for (int64_t i = 0; i < cols; i += kStep) {
      store_bf16(out + i, load_bf16(x + i, static_cast<int>(std::min<int64_t>(kStep, cols - i))));
    }
  }
};
#endif

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
