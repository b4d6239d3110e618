// The kernel of gemm.h. Lanes lie along k, so a stored row is read as it is; a register block of kBlockTokens
// x kBlockOutputs vectors of partial sums makes a widened weight serve several tokens and a loaded activation
// several outputs. FMA-bound from a dozen tokens on, bound by the bytes of W for one. Blocks of k hand their
// vectors of partial sums on whole, and tails are zeros added at the end, so an element is summed in one
// order in any rectangle.

#include "kernels/cpu/dot.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"
#if defined(FULGUR_CPU_TILES)
#include "kernels/cpu/tiles.h"
#endif

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

// Register blocks: 12 of 16 vector registers hold sums, 24 of 32; a single token instead takes 8 outputs,
// since fewer than 8 chains of FMAs don't hide their latency.
constexpr int kBlockTokens = kVectorRegisters == 32 ? 6 : 3;
constexpr int kBlockOutputs = 4;
constexpr int kSingleTokenOutputs = 8;
// Blocks of memory: kBlockK packed activations of kBlockTokens tokens stay in L1 with the weights they meet;
// the rows of weights of one block (kPassOutputs at most, kPassBytes) are read from L2 for every group of
// tokens; products wider than kBlockK keep the partial sums of kPassTokens x kPassOutputs elements on the
// stack between blocks of k.
constexpr int64_t kBlockK = 1024;
constexpr int64_t kPassOutputs = 32;
constexpr int64_t kPassBytes = 16 << 10;
constexpr int64_t kPassTokens = 48;

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

/// What one call of dot_block works on.
template <typename Dot>
struct Block {
  const typename Dot::Packed* x;
  int64_t x_stride;
  const typename Dot::Stored* w;
  int64_t w_stride;
  int64_t k_size;  // of this block of k; only the last one may end within a step
  Vec* sums;       // of the blocks of k before and after this one
  bool first;
  bool last;
};

template <typename Dot, int kTokens, int kOutputs, int kPart>
[[gnu::always_inline]] inline void add_part(const typename Dot::Packed* x, int64_t x_stride,
                                            const typename Dot::Stored* w, int64_t w_stride,
                                            Vec (&sums)[kTokens][kOutputs]) {
  decltype(Dot::template load_x<kPart>(x)) xs[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) xs[t] = Dot::template load_x<kPart>(x + t * x_stride);
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

/// kTokens x kOutputs elements of y over one block of k.
template <typename Dot, int kTokens, int kOutputs>
void dot_block(const Block<Dot>& b, const Target& y) {
  Vec sums[kTokens][kOutputs];
  if (b.first) {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; ++o) sums[t][o] = zero();
    }
  } else {
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; ++o) sums[t][o] = b.sums[t * kOutputs + o];
    }
  }
  const auto* x = b.x;
  const auto* w = b.w;
  int64_t k = 0;
  for (; k + Dot::kStep <= b.k_size; k += Dot::kStep) {
    add_step<Dot, kTokens, kOutputs>(x, b.x_stride, w, b.w_stride, sums);
    x += Dot::kStep;
    w += Dot::kStep;
  }
  if (k < b.k_size) {
    typename Dot::Stored tail[kOutputs * Dot::kStep] = {};
    for (int o = 0; o < kOutputs; ++o) {
      std::memcpy(tail + o * Dot::kStep, w + o * b.w_stride,
                  static_cast<size_t>(b.k_size - k) * sizeof *tail);
    }
    add_step<Dot, kTokens, kOutputs>(x, b.x_stride, tail, Dot::kStep, sums);
  }
  if (b.last && y.narrow != nullptr) return add_lanes(sums, y.narrow, y.stride);
  if (b.last) return add_lanes(sums, y.wide, y.stride);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
    for (int o = 0; o < kOutputs; ++o) b.sums[t * kOutputs + o] = sums[t][o];
  }
}

/// f(integral_constant<int, n>) for a run-time n in [1, kMax].
template <int kMax, typename F>
void with_count(int64_t n, F&& f) {
  if constexpr (kMax > 1) {
    if (n < kMax) return with_count<kMax - 1>(n, f);
  }
  f(std::integral_constant<int, kMax>{});
}

/// A rectangle of y for one Dot. y(0, 0) is the element of the first token and the first output.
template <typename Dot>
struct Product {
  const typename Dot::Packed* x;
  int64_t x_stride;
  const typename Dot::Stored* w;
  int64_t k_size;  // also the stride of w
  int64_t tokens;
  int64_t outputs;
  Target y;

  /// Outputs [o, o_end) of kTokens tokens from t on, over k in [k, k_end). `sums` has room for all of them.
  template <int kTokens, int kOutputs>
  void run_group(int64_t t, int64_t o, int64_t o_end, int64_t k, int64_t k_end, Vec* sums) const {
    Block<Dot> b{.x = x + t * x_stride + k,
                 .x_stride = x_stride,
                 .w = nullptr,
                 .w_stride = k_size,
                 .k_size = k_end - k,
                 .sums = sums,
                 .first = k == 0,
                 .last = k_end == k_size};
    for (; o + kOutputs <= o_end; o += kOutputs) {
      b.w = w + o * k_size + k;
      dot_block<Dot, kTokens, kOutputs>(b, y.at(t, o));
      b.sums += kTokens * kOutputs;
    }
    for (; o < o_end; ++o) {
      b.w = w + o * k_size + k;
      dot_block<Dot, kTokens, 1>(b, y.at(t, o));
      b.sums += kTokens;
    }
  }

  void run_groups(int64_t t, int64_t t_end, int64_t o, int64_t o_end, int64_t k, int64_t k_end,
                  Vec* sums) const {
    for (; t < t_end; t += kBlockTokens) {
      with_count<kBlockTokens>(
          t_end - t, [&](auto count) { run_group<count, kBlockOutputs>(t, o, o_end, k, k_end, sums); });
      sums += kBlockTokens * (o_end - o);
    }
  }

  /// Rows of weights that a pass reads again and again from L2 or nearer.
  [[nodiscard]] int64_t pass_outputs() const {
    const int64_t row_bytes = std::min(k_size, kBlockK) * static_cast<int64_t>(sizeof *w);
    return std::clamp<int64_t>(kPassBytes / row_bytes / 8 * 8, 8, kPassOutputs);
  }

  void run_narrow() const {
    const int64_t step = pass_outputs();
    for (int64_t o = 0; o < outputs; o += step) {
      run_groups(0, tokens, o, std::min(outputs, o + step), 0, k_size, nullptr);
    }
  }

  void run_wide() const {
    Vec sums[kPassTokens * kPassOutputs];
    const int64_t step = pass_outputs();
    for (int64_t o = 0; o < outputs; o += step) {
      for (int64_t t = 0; t < tokens; t += kPassTokens) {
        for (int64_t k = 0; k < k_size; k += kBlockK) {
          run_groups(t, std::min(tokens, t + kPassTokens), o, std::min(outputs, o + step), k,
                     std::min(k_size, k + kBlockK), sums);
        }
      }
    }
  }

  void run() const {
    if (tokens == 1) {
      run_group<1, kSingleTokenOutputs>(0, 0, outputs, 0, k_size, nullptr);
    } else if (k_size <= kBlockK) {
      run_narrow();
    } else {
      run_wide();
    }
  }
};

template <typename Dot>
void multiply_with(const PackedRows& x, Share tokens, const Weight& w, Share outputs, const Target& y) {
  using Packed = typename Dot::Packed;
  using Stored = typename Dot::Stored;
  Product<Dot>{.x = reinterpret_cast<const Packed*>(x.data + tokens.begin * x.row_bytes),
               .x_stride = x.row_bytes / static_cast<int64_t>(sizeof(Packed)),
               .w = static_cast<const Stored*>(w.data) + outputs.begin * w.cols,
               .k_size = w.cols,
               .tokens = tokens.end - tokens.begin,
               .outputs = outputs.end - outputs.begin,
               .y = y}
      .run();
}

template <typename X>
void pack_row_as(const PackedRows& packed, int64_t row, const X* x) {
  std::byte* out = packed.data + row * packed.row_bytes;
  switch (packed.order) {
    case PackedRows::Order::kNatural:
      return WideDot<float>::pack_row(x, packed.cols, reinterpret_cast<float*>(out));
    case PackedRows::Order::kSplit:
      return SplitDot::pack_row(x, packed.cols, reinterpret_cast<float*>(out));
    case PackedRows::Order::kPairs:
#if defined(FULGUR_CPU_BF16_DOT)
      if constexpr (std::is_same_v<X, Bf16>) PairDot::pack_row(x, packed.cols, reinterpret_cast<Bf16*>(out));
#endif
      return;
    case PackedRows::Order::kTiles:
#if defined(FULGUR_CPU_TILES)
      if constexpr (std::is_same_v<X, Bf16>) {
        pack_tile_row(x, packed.cols, packed.data + row / kTileRows * kTileRows * packed.row_bytes,
                      static_cast<int>(row % kTileRows));
      }
#endif
      return;
  }
}

#if defined(FULGUR_CPU_TILES)
template <typename Out>
void multiply_tiles_to(const PackedRows& x, Share tokens, const Weight& w, Share outputs, Out* y,
                       int64_t stride) {
  multiply_tiles(x.data + tokens.begin * x.row_bytes, x.row_bytes, tokens.end - tokens.begin,
                 w.take_rows(outputs.begin, outputs.end - outputs.begin), y, stride);
}
#endif

void multiply_to(const PackedRows& x, Share tokens, const Weight& w, Share outputs, const Target& y) {
  if (tokens.begin >= tokens.end || outputs.begin >= outputs.end) return;
  switch (x.order) {
    case PackedRows::Order::kNatural:
      if (w.form == DType::kF16) return multiply_with<WideDot<F16>>(x, tokens, w, outputs, y);
      return multiply_with<WideDot<float>>(x, tokens, w, outputs, y);
    case PackedRows::Order::kSplit:
      return multiply_with<SplitDot>(x, tokens, w, outputs, y);
    case PackedRows::Order::kPairs:
#if defined(FULGUR_CPU_BF16_DOT)
      multiply_with<PairDot>(x, tokens, w, outputs, y);
#endif
      return;
    case PackedRows::Order::kTiles:
#if defined(FULGUR_CPU_TILES)
      if (y.narrow != nullptr) return multiply_tiles_to(x, tokens, w, outputs, y.narrow, y.stride);
      multiply_tiles_to(x, tokens, w, outputs, y.wide, y.stride);
#endif
      return;
  }
}

}  // namespace

void pack_row(const PackedRows& packed, int64_t row, const Bf16* x) { pack_row_as(packed, row, x); }
void pack_row(const PackedRows& packed, int64_t row, const float* x) { pack_row_as(packed, row, x); }

void multiply(const PackedRows& x, Share tokens, const Weight& w, Share outputs, float* y, int64_t y_stride) {
  multiply_to(x, tokens, w, outputs, {y, nullptr, y_stride});
}
void multiply(const PackedRows& x, Share tokens, const Weight& w, Share outputs, Bf16* y, int64_t y_stride) {
  multiply_to(x, tokens, w, outputs, {nullptr, y, y_stride});
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
