#pragma once

// y = x W^T for weights as stored, row-major bf16, f16 or f32: what every op with a product stands on.
//
// Activations are packed once an op (allocate_packed, pack_rows), then multiply() computes any rectangle of
// y (product.cc). An element's roundings depend on the form and width of W, the instruction set and the dtype
// of x alone.

#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Rows of activations in the order that the kernel of one weight form reads (dot.h; kTiles: tiles.h).
/// kScaled, for FP8 where its codes are decoded in a unit of their own, is kSplit with rows that are
/// multiplied by a power of two (quantized.h) and hold the factor that takes it back behind their columns.
struct PackedRows {
  enum class Order : uint8_t { kNatural, kSplit, kScaled, kPairs, kTiles };

  std::byte* data = nullptr;
  Order order{};
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_bytes = 0;
};

#if defined(FULGUR_CPU_TILES)
constexpr int64_t kTokenGrain = 16;
#else
constexpr int64_t kTokenGrain = 1;
#endif
/// Where multiply() may begin a range of tokens: at multiples of kTokenGrain.
constexpr int64_t round_to_grain(int64_t rows) {
  return (rows + kTokenGrain - 1) / kTokenGrain * kTokenGrain;
}

inline PackedRows::Order order_for(DType x, WeightForm form) {
  if (form == WeightForm::kF16 || form == WeightForm::kF32) return PackedRows::Order::kNatural;
#if defined(FULGUR_CPU_TILES)
  if (x == DType::kBf16) return PackedRows::Order::kTiles;
#elif defined(FULGUR_CPU_BF16_DOT)
  if (x == DType::kBf16 && form == WeightForm::kBf16) return PackedRows::Order::kPairs;
#endif
  (void)x;
  if (kE4m3Unit != 1 && form == WeightForm::kFp8) return PackedRows::Order::kScaled;
  return PackedRows::Order::kSplit;
}

/// Bytes of a packed row of `cols` f32.
constexpr int64_t wide_row_bytes(int64_t cols) {
  return (cols + 2 * kLanes - 1) / (2 * kLanes) * (2 * kLanes) * 4;
}
/// ... in the widest order.
constexpr int64_t kFactorBytes = kE4m3Unit != 1 ? 64 : 0;  // keeps rows aligned
constexpr int64_t widest_row_bytes(int64_t cols) { return wide_row_bytes(cols) + kFactorBytes; }
/// Where a row in Order::kScaled holds its factor.
inline float* scaled_row_factor(float* row, int64_t cols) { return row + wide_row_bytes(cols) / 4; }

/// `rows` rows of an operand of dtype x, to be packed for weights of `form` at `data`.
inline PackedRows packed_at(std::byte* data, int64_t rows, int64_t cols, DType x, WeightForm form) {
  const PackedRows::Order order = order_for(x, form);
  const bool narrow = order == PackedRows::Order::kPairs || order == PackedRows::Order::kTiles;
  const int64_t wide = wide_row_bytes(cols) + (order == PackedRows::Order::kScaled ? kFactorBytes : 0);
  return {data, order, rows, cols, narrow ? wide / 2 : wide};
}

inline PackedRows allocate_packed(Arena& arena, int64_t rows, int64_t cols, DType x, WeightForm form) {
  PackedRows packed = packed_at(nullptr, rows, cols, x, form);
  packed.data = arena.allocate_array<std::byte>(round_to_grain(rows) * packed.row_bytes);
  return packed;
}

/// Row `row` of `packed` = x, a row of packed.cols elements in the dtype that it was allocated for.
void pack_row(const PackedRows& packed, int64_t row, const Bf16* x);
void pack_row(const PackedRows& packed, int64_t row, const float* x);

inline void pack_rows(const PackedRows& packed, const Operand& x, Share rows) {
  with_operand(x.dtype, [&](auto element) {
    for (int64_t t = rows.begin; t < rows.end; ++t) pack_row(packed, t, x.row<const decltype(element)>(t));
  });
}

/// y = rows `tokens` of x times rows `outputs` of w; y(0, 0), f32 or rounded once to bf16, is the element of
/// the first token and output. tokens.begin is a multiple of kTokenGrain; x was packed for w's form.
void multiply(const PackedRows& x, Share tokens, const Weight& w, Share outputs, float* y, int64_t y_stride);
void multiply(const PackedRows& x, Share tokens, const Weight& w, Share outputs, Bf16* y, int64_t y_stride);

/// What a product costs, for run_region(): the bytes of W, or its FLOPs where they are more work than that.
inline int64_t product_bytes(int64_t tokens, const Weight& w) {
  return w.rows * (row_bytes(w.form, w.cols) + w.cols * (tokens / 4));
}

/// How a crew divides a product: members stand in a grid of ranges of tokens by ranges of outputs. Ranges of
/// tokens come first, since then each member reads few activations and W stays in its cache, as long as they
/// keep kMinTokens.
struct Part {
  Share tokens;
  Share outputs;
};
inline Part part_of(const Crew& crew, int64_t tokens, int64_t outputs) {
  constexpr int64_t kMinTokens = 48;
  constexpr int64_t kPartTokenGrain = 48;  // whole register blocks and tiles
  int across = 1;  // ranges of tokens: the largest divisor of the crew that leaves enough in each
  for (int n = 2; n <= crew.size; ++n) {
    if (crew.size % n == 0 && tokens / n >= kMinTokens) across = n;
  }
  const int along = crew.size / across;
  return {share_of(tokens, crew.member % across, across, kPartTokenGrain),
          share_of(outputs, crew.member / across, along, 16)};
}

/// The crew's part of y = x W^T, y whole.
inline void multiply_part(const Crew& crew, const PackedRows& x, int64_t tokens, const Weight& w,
                          const Operand& y) {
  const Part part = part_of(crew, tokens, w.rows);
  with_operand(y.dtype, [&](auto element) {
    using Out = decltype(element);
    multiply(x, part.tokens, w, part.outputs, y.row<Out>(part.tokens.begin) + part.outputs.begin, y.stride);
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
