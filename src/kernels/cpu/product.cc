// The kernel of gemm.h. Lanes lie along k, so a stored row is read as it is; a register block of kBlockTokens
// x kBlockOutputs vectors of partial sums makes a widened weight serve several tokens and a loaded activation
// several outputs. FMA-bound from a dozen tokens on, bound by the bytes of W for one. Blocks of k hand their
// vectors of partial sums on whole, and tails are zeros added at the end, so an element is summed in one
// order in any rectangle.

#include "kernels/cpu/dot.h"
#include "kernels/cpu/dot_block.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/quantized.h"
#if defined(FULGUR_CPU_TILES)
#include "kernels/cpu/code_tiles.h"
#include "kernels/cpu/tiles.h"
#endif

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

// Register blocks: 12 of 16 vector registers hold sums, 24 of 32. Few tokens read weights as stored, and then
// widening takes registers too; a single one takes 8 outputs, since fewer than 8 chains of FMAs don't hide
// their latency.
constexpr int kBlockTokens = kVectorRegisters == 32 ? 6 : 3;
constexpr int kFewBlockTokens = 2;
constexpr int kBlockOutputs = 4;
constexpr int kSingleTokenOutputs = 8;
// From more tokens than this on, weights are widened to f32 once for all of them: widening within the block
// costs more there than reading twice the bytes. Measured, with 16 registers for bf16.
template <typename Dot>
constexpr int64_t kFewTokens = 5;
template <>
constexpr int64_t kFewTokens<SplitDot> = kVectorRegisters == 16 ? 8 : 5;
constexpr int64_t kFewDecodingTokens = 2;  // decoding costs more than widening
// Of weights as stored: they stay in L2 while one group of few tokens after the other meets them.
constexpr int64_t kFewPassBytes = 128 << 10;
// Blocks of memory: the rows of a pass, kPassBytes of f32, stay in L1 while groups of kBlockTokens tokens
// meet them; products wider than kBlockK keep the partial sums of kPassTokens x kPassOutputs elements on the
// stack between blocks of k.
constexpr int64_t kPassOutputs = 32;
constexpr int64_t kWidePassOutputs = 8;
constexpr int64_t kPassBytes = kWidePassOutputs * kBlockK * 4;
constexpr int64_t kPassTokens = 192;

/// kTokens tokens of a block, all its outputs.
template <typename Dot, int kTokens, int kOutputs>
void dot_group(Block<Dot> b, int64_t outputs) {
  int64_t o = 0;
  for (; o + kOutputs <= outputs; o += kOutputs) {
    dot_block<Dot, kTokens, kOutputs>(b);
    b.advance(0, kOutputs, kTokens * kOutputs);
  }
  for (; o < outputs; ++o) {
    dot_block<Dot, kTokens, 1>(b);
    b.advance(0, 1, kTokens);
  }
}

/// f(integral_constant<int, n>) for a run-time n in [1, kMax]; kMax for more.
template <int kMax, typename F>
void with_count(int64_t n, F&& f) {
  if constexpr (kMax > 1) {
    if (n < kMax) return with_count<kMax - 1>(n, f);
  }
  f(std::integral_constant<int, kMax>{});
}

/// All tokens and outputs of a block, kMaxTokens tokens at a time.
template <int kMaxTokens, typename Dot>
void dot_rectangle(Block<Dot> b, int64_t tokens, int64_t outputs) {
  for (int64_t t = 0; t < tokens; t += kMaxTokens) {
    with_count<kMaxTokens>(tokens - t, [&](auto count) {
      constexpr int kOutputs = count == 1 && !kDecodes<Dot> ? kSingleTokenOutputs : kBlockOutputs;
      dot_group<Dot, count, kOutputs>(b, outputs);
    });
    b.advance(kMaxTokens, 0, kMaxTokens * outputs);
  }
}

/// A pass over many tokens: rows of w over one block of k, widened first where they are stored narrow. The
/// panel has the order that x was packed in.
template <typename Dot>
void dot_pass(const Block<Dot>& b, int64_t tokens, int64_t outputs) {
  if constexpr (std::is_same_v<typename Dot::Rows, StoredRows<typename Dot::Packed>>) {
    dot_rectangle<kBlockTokens>(b, tokens, outputs);
  } else {
    alignas(64) float panel[kPassBytes / sizeof(float)];
    const int64_t padded = (b.k_size + Dot::kStep - 1) / Dot::kStep * Dot::kStep;
    float scales[kPassOutputs * kScalesPerPanel];
    for (int64_t o = 0; o < outputs; ++o) {
      Dot::panel_row(b.w.at(o, 0), b.k_size, panel + o * padded);
      if constexpr (std::is_same_v<Dot, Fp8Dot>) {
        const Fp8Row row(b.w.at(o, 0));
        for (int64_t k = 0; k < b.k_size; k += kFp8BlockGrain)
          scales[o * kScalesPerPanel + k / kFp8BlockGrain] = row.scale(k);
      }
    }
    using PanelDot = std::conditional_t<std::is_same_v<Dot, Fp8Dot>, CodePanelDot, WideDot<float>>;
    const Block<PanelDot> wide{.x = b.x,
                               .x_stride = b.x_stride,
                               .w = {panel, padded},
                               .k_size = padded,
                               .y = b.y,
                               .scales = scales,
                               .factor = b.factor,
                               .x_factors = b.x_factors,
                               .sums = b.sums,
                               .first = b.first,
                               .last = b.last};
    dot_rectangle<kBlockTokens>(wide, tokens, outputs);
  }
}

/// `whole` is all of k and every output, in passes of outputs, and of tokens and blocks of k where k is wide.
template <typename Dot>
void dot_passes(const Block<Dot>& whole, int64_t tokens, int64_t outputs) {
  const int64_t padded = (whole.k_size + Dot::kStep - 1) / Dot::kStep * Dot::kStep;
  if (padded <= kBlockK) {
    const int64_t step =
        std::clamp<int64_t>(kPassBytes / (padded * 4) / 4 * 4, kWidePassOutputs, kPassOutputs);
    for (int64_t o = 0; o < outputs; o += step) {
      Block<Dot> b = whole;
      b.advance(0, o, 0);
      dot_pass(b, tokens, std::min(step, outputs - o));
    }
    return;
  }
  Vec sums[kPassTokens * kWidePassOutputs];
  for (int64_t o = 0; o < outputs; o += kWidePassOutputs) {
    for (int64_t t = 0; t < tokens; t += kPassTokens) {
      for (int64_t k = 0; k < whole.k_size; k += kBlockK) {
        Block<Dot> b = whole;
        b.advance(t, o, 0);
        b.x += k;
        b.w = b.w.at(0, k);
        b.k_size = std::min(kBlockK, whole.k_size - k);
        b.sums = sums;
        b.first = k == 0;
        b.last = k + kBlockK >= whole.k_size;
        dot_pass(b, std::min(kPassTokens, tokens - t), std::min(kWidePassOutputs, outputs - o));
      }
    }
  }
}

template <typename Dot>
void multiply_with(const PackedRows& x, Share tokens, const Weight& w, Share outputs, const Target& y) {
  using Packed = typename Dot::Packed;
  auto* first_x = reinterpret_cast<Packed*>(x.data + tokens.begin * x.row_bytes);
  const float* x_factors = nullptr;
  if constexpr (kScaledX<Dot>) x_factors = scaled_row_factor(first_x, x.cols);
  const Block<Dot> whole{.x = first_x,
                         .x_stride = x.row_bytes / static_cast<int64_t>(sizeof(Packed)),
                         .w = Dot::Rows::of(w).at(outputs.begin, 0),
                         .k_size = w.cols,
                         .y = y,
                         .factor = static_cast<float>(w.global),
                         .x_factors = x_factors};
  const int64_t num_tokens = tokens.end - tokens.begin;
  const int64_t num_outputs = outputs.end - outputs.begin;
  if (num_tokens > (kDecodes<Dot> ? kFewDecodingTokens : kFewTokens<Dot>))
    return dot_passes(whole, num_tokens, num_outputs);
  int64_t step = num_outputs;
  if (num_tokens > kFewBlockTokens) {
    const int64_t rows = kFewPassBytes / row_bytes(w.form, w.cols) / kSingleTokenOutputs;
    step = std::max<int64_t>(rows, 1) * kSingleTokenOutputs;
  }
  for (int64_t o = 0; o < num_outputs; o += step) {
    Block<Dot> b = whole;
    b.advance(0, o, 0);
    dot_rectangle<kFewBlockTokens>(b, num_tokens, std::min(step, num_outputs - o));
  }
}

template <typename X>
void pack_row_as(const PackedRows& packed, int64_t row, const X* x) {
  std::byte* out = packed.data + row * packed.row_bytes;
  switch (packed.order) {
    case PackedRows::Order::kNatural:
      return WideDot<float>::pack_row(x, packed.cols, reinterpret_cast<float*>(out));
    case PackedRows::Order::kSplit:
      return SplitDot::pack_row(x, packed.cols, reinterpret_cast<float*>(out));
    case PackedRows::Order::kScaled:
      if constexpr (kE4m3Unit != 1) {
        auto* row = reinterpret_cast<float*>(out);
        pack_scaled_row(x, packed.cols, row, *scaled_row_factor(row, packed.cols));
      }
      return;
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
  const Weight part = w.take_rows(outputs.begin, outputs.end - outputs.begin);
  const std::byte* first = x.data + tokens.begin * x.row_bytes;
  const int64_t count = tokens.end - tokens.begin;
  if (is_plain(w.form)) return multiply_tiles(first, x.row_bytes, count, part, y, stride);
  multiply_code_tiles(first, x.row_bytes, count, part, y, stride);
}
#endif

void multiply_to(const PackedRows& x, Share tokens, const Weight& w, Share outputs, const Target& y) {
  if (tokens.begin >= tokens.end || outputs.begin >= outputs.end) return;
  switch (x.order) {
    case PackedRows::Order::kNatural:
      if (w.form == WeightForm::kF16) return multiply_with<WideDot<F16>>(x, tokens, w, outputs, y);
      return multiply_with<WideDot<float>>(x, tokens, w, outputs, y);
    case PackedRows::Order::kScaled:
      return multiply_with<Fp8Dot>(x, tokens, w, outputs, y);
    case PackedRows::Order::kSplit:
      if (w.form == WeightForm::kFp8) return multiply_with<Fp8Dot>(x, tokens, w, outputs, y);
      if (w.form == WeightForm::kNvfp4) return multiply_with<Nvfp4Dot>(x, tokens, w, outputs, y);
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
