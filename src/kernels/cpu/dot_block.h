#pragma once

// A register block of a product: kTokens x kOutputs vectors of partial sums over a block of k, for weights as
// they are stored, widened in a panel, or decoded as they are read.

#include "kernels/cpu/dot.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/quantized.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Products wider than this are cut into blocks of k.
constexpr int64_t kBlockK = 512;
constexpr int64_t kScalesPerPanel = kBlockK / kFp8BlockGrain;

/// Where an element of y goes: one of the two is null.
struct Target {
  float* wide;
  Bf16* narrow;
  int64_t stride;

  [[nodiscard]] Target at(int64_t t, int64_t o) const {
    const int64_t offset = t * stride + o;
    return narrow != nullptr ? Target{nullptr, narrow + offset, stride}
                             : Target{wide + offset, nullptr, stride};
  }
};

/// A block of k of a rectangle of y: x and w begin at its first token, output and k.
template <typename Dot>
struct Block {
  const typename Dot::Packed* x;
  int64_t x_stride;
  typename Dot::Rows w;
  int64_t k_size;  // only the last block may end within a step
  Target y;
  const float* scales = nullptr;     // of CodePanelDot: [outputs, kScalesPerPanel]
  float factor = 1;                  // of the sums: Weight::global
  const float* x_factors = nullptr;  // of each token's sums, x_stride apart: PackedRows::Order::kScaled
  Vec* sums = nullptr;  // of the blocks of k before and after this one: room for tokens x outputs
  bool first = true;
  bool last = true;

  /// Where a block's tokens and outputs go on; sums lie as they are computed, one after the other.
  void advance(int64_t tokens, int64_t outputs, int64_t elements) {
    x += tokens * x_stride;
    if constexpr (kScaledX<Dot>) x_factors += tokens * x_stride;
    w = w.at(outputs, 0);
    y = y.at(tokens, outputs);
    if constexpr (std::is_same_v<Dot, CodePanelDot>) scales += outputs * kScalesPerPanel;
    if (sums != nullptr) sums += elements;
  }
};

template <typename Dot, int kTokens, int kOutputs, int kPart>
[[gnu::always_inline]] inline void add_part(const typename Dot::Packed* x, int64_t x_stride,
                                            const typename Dot::Stored* w, int64_t w_stride,
                                            Vec (&sums)[kTokens][kOutputs]) {
  decltype(Dot::template load_x<kPart>(x)) xs[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) xs[t] = in_register(Dot::template load_x<kPart>(x + t * x_stride));
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; ++o) {
    const auto ws = Dot::template load_w<kPart>(w + o * w_stride);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) sums[t][o] = Dot::add(ws, xs[t], sums[t][o]);
  }
}

template <typename Dot, int kTokens, int kOutputs>
[[gnu::always_inline]] inline void add_step(const typename Dot::Packed* x, int64_t x_stride,
                                            const typename Dot::Stored* w, int64_t w_stride,
                                            Vec (&sums)[kTokens][kOutputs]) {
  add_part<Dot, kTokens, kOutputs, 0>(x, x_stride, w, w_stride, sums);
  if constexpr (Dot::kParts == 2) add_part<Dot, kTokens, kOutputs, 1>(x, x_stride, w, w_stride, sums);
}

template <int kTokens, int kOutputs>
[[gnu::always_inline]] inline void clear(Vec (&sums)[kTokens][kOutputs]) {
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
    for (int o = 0; o < kOutputs; ++o) sums[t][o] = zero();
  }
}

/// Adds the lanes of kTokens x kOutputs vectors into y. Both branches add them in the tree of sum().
template <int kTokens, int kOutputs, typename Out>
[[gnu::always_inline]] inline void add_lanes(const Vec (&sums)[kTokens][kOutputs], Out* y, int64_t y_stride) {
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    if constexpr (kOutputs % 4 == 0) {
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; o += 4) {
        sum4(sums[t][o], sums[t][o + 1], sums[t][o + 2], sums[t][o + 3], y + t * y_stride + o);
      }
    } else {
      for (int o = 0; o < kOutputs; ++o) y[t * y_stride + o] = from_float<Out>(sum(sums[t][o]));
    }
  }
}

/// The elements that `sums` are of, from their factor on.
template <typename Dot, int kTokens, int kOutputs>
[[gnu::always_inline]] inline void finish(const Block<Dot>& b, Vec (&sums)[kTokens][kOutputs]) {
  if constexpr (kScaledX<Dot>) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const Vec factor = splat(b.x_factors[t * b.x_stride]);
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; ++o) sums[t][o] = sums[t][o] * factor;
    }
  }
  if (b.factor != 1) {
    const Vec factor = splat(b.factor);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; ++o) sums[t][o] = sums[t][o] * factor;
    }
  }
  if (b.y.narrow != nullptr) return add_lanes(sums, b.y.narrow, b.y.stride);
  add_lanes(sums, b.y.wide, b.y.stride);
}

/// sums += scale(o) * block
template <int kTokens, int kOutputs, typename Scale>
[[gnu::always_inline]] inline void add_scaled(const Vec (&block)[kTokens][kOutputs], Scale&& scale,
                                              Vec (&sums)[kTokens][kOutputs]) {
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; ++o) {
    const Vec factor = splat(scale(o));
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) sums[t][o] = fma(block[t][o], factor, sums[t][o]);
  }
}

/// sums += the products of columns [k, end) of a block. Only its last may not be a whole step.
template <typename Dot, int kTokens, int kOutputs>
[[gnu::always_inline]] inline void add_columns(const Block<Dot>& b, int64_t k, int64_t end,
                                               Vec (&sums)[kTokens][kOutputs]) {
  const auto* x = b.x + k;
  const auto* w = b.w.data + k;
  const int64_t w_stride = b.w.stride;
  for (; k + Dot::kStep <= end; k += Dot::kStep) {
    add_step<Dot, kTokens, kOutputs>(x, b.x_stride, w, w_stride, sums);
    x += Dot::kStep;
    w += Dot::kStep;
  }
  if (k == end) return;
  typename Dot::Stored tail[kOutputs * Dot::kStep] = {};
  for (int o = 0; o < kOutputs; ++o) {
    std::memcpy(tail + o * Dot::kStep, w + o * w_stride, static_cast<size_t>(end - k) * sizeof *tail);
  }
  add_step<Dot, kTokens, kOutputs>(x, b.x_stride, tail, Dot::kStep, sums);
}

/// kTokens x kOutputs elements.
template <typename Dot, int kTokens, int kOutputs>
void dot_block(const Block<Dot>& b) {
  Vec sums[kTokens][kOutputs];
  if (b.first) {
    clear(sums);
  } else {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; ++o) sums[t][o] = b.sums[t * kOutputs + o];
    }
  }
  if constexpr (!std::is_same_v<Dot, CodePanelDot>) {
    add_columns(b, 0, b.k_size, sums);
  } else {
    for (int64_t k = 0; k < b.k_size; k += kFp8BlockGrain) {
      Vec block[kTokens][kOutputs];
      clear(block);
      add_columns(b, k, std::min(b.k_size, k + kFp8BlockGrain), block);
      add_scaled(
          block, [&](int o) { return b.scales[o * kScalesPerPanel + k / kFp8BlockGrain]; }, sums);
    }
  }
  if (b.last) return finish(b, sums);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
    for (int o = 0; o < kOutputs; ++o) b.sums[t * kOutputs + o] = sums[t][o];
  }
}

/// sums[.][o] += the first kVectors vectors of a decoded step of output o times x, which begins at the step.
template <int kVectors, int kTokens, int kOutputs>
[[gnu::always_inline]] inline void add_decoded(const VecQuad& ws, const float* x, int64_t x_stride, int o,
                                               Vec (&sums)[kTokens][kOutputs]) {
#pragma GCC unroll 8
  for (int p = 0; p < kVectors; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      sums[t][o] = fma(ws.v[p], load(x + t * x_stride + p * kLanes), sums[t][o]);
  }
}

/// sums += the products of columns [k, end), decoded as they are read, once for all tokens. `ahead` are the
/// rows of the next outputs: left to itself, the hardware begins too late to fetch them.
template <typename Row, int kTokens, int kOutputs>
[[gnu::always_inline]] inline void add_codes(const Row (&rows)[kOutputs],
                                             const uint8_t* const (&ahead)[kOutputs], const float* x,
                                             int64_t x_stride, int64_t k, int64_t end, E4m3Watch& watch,
                                             Vec (&sums)[kTokens][kOutputs]) {
  for (; k + kCodesPerStep <= end; k += kCodesPerStep) {
#pragma GCC unroll 8
    for (int o = 0; o < kOutputs; ++o) {
      __builtin_prefetch(ahead[o] + row_bytes(Row::kForm, k));
      add_decoded<4>(rows[o].step(k, watch), x + k, x_stride, o, sums);
    }
  }
  if (k == end) return;
  for (int o = 0; o < kOutputs; ++o) {
    const VecQuad ws = rows[o].tail(k, end - k, watch);
    if (end - k > kCodesPerHalf) {
      add_decoded<4>(ws, x + k, x_stride, o, sums);
    } else {
      add_decoded<2>(ws, x + k, x_stride, o, sums);
    }
  }
}

/// kTokens x kOutputs elements of a weight that is decoded as it is read, all of k.
template <typename Dot, int kTokens, int kOutputs>
requires kDecodes<Dot>
void dot_block(const Block<Dot>& b) {
  using Row = typename Dot::Row;
  Row rows[kOutputs];
  const uint8_t* ahead[kOutputs];
  for (int o = 0; o < kOutputs; ++o) {
    rows[o] = Row(b.w.at(o, 0));
    ahead[o] = b.w.at(o, 0).codes_ahead(kOutputs);
  }
  E4m3Watch watch;
  Vec sums[kTokens][kOutputs];
  clear(sums);
  if constexpr (Row::kScalesSums) {
    for (int64_t k = 0; k < b.k_size; k += kFp8BlockGrain) {
      Vec block[kTokens][kOutputs];
      clear(block);
      add_codes(rows, ahead, b.x, b.x_stride, k, std::min(b.k_size, k + kFp8BlockGrain), watch, block);
      add_scaled(
          block, [&](int o) { return rows[o].scale(k); }, sums);
    }
  } else {
    add_codes(rows, ahead, b.x, b.x_stride, 0, b.k_size, watch, sums);
  }
  if (watch.saw_nan()) {
    for (int o = 0; o < kOutputs; ++o) {
      if (!rows[o].has_nan(b.k_size)) continue;
      for (int t = 0; t < kTokens; ++t) sums[t][o] = splat(kNan);
    }
  }
  finish(b, sums);
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
