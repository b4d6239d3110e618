#pragma once

// Weights stored as FP8 or NVFP4, decoded in registers in the order of SplitDot, for f32 activations. An FP8
// element is
//
//   sum over blocks of 128 columns, ascending, of scale * (the block's sum of code * x)
//
// which leaves the codes alone: exact in f32 and bf16, no rounding of weights. NVFP4's code * scale is exact
// in f32 and bf16 too, and summed as a bf16 weight is; the factor of the whole matrix, rounded to f32, is
// applied to the sums at the end. So few rows of x, which decode as they go, and many, which share a decoded
// panel, sum the same numbers in the same order.

#include "kernels/cpu/dot.h"
#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// What a step decodes: vectors 0 and 1 are the even and odd columns of the first half, 2 and 3 of the
/// second.
constexpr int kCodesPerStep = 4 * kLanes;
constexpr int kCodesPerHalf = 2 * kLanes;
static_assert(kFp8BlockGrain % kCodesPerStep == 0);

/// A weight from some row and column on.
struct CodeRows {
  const Weight* w;
  int64_t row;
  int64_t k;

  static CodeRows of(const Weight& weight) { return {&weight, 0, 0}; }
  [[nodiscard]] CodeRows at(int64_t o, int64_t columns) const { return {w, row + o, k + columns}; }
  [[nodiscard]] const uint8_t* codes() const {
    return static_cast<const uint8_t*>(w->data) + row_bytes(w->form, row * w->cols + k);
  }
  /// Where the row lies that is read `rows` rows later, or the last.
  [[nodiscard]] const uint8_t* codes_ahead(int64_t rows) const {
    return CodeRows{w, std::min(row + rows, w->rows - 1), k}.codes();
  }
};

/// A row of an FP8 weight: its codes, whose sums take a scale for every kFp8BlockGrain columns.
class Fp8Row {
 public:
  static constexpr WeightForm kForm = WeightForm::kFp8;
  static constexpr bool kScalesSums = true;

  Fp8Row() = default;
  explicit Fp8Row(const CodeRows& from)
      : codes_(from.codes()),
        scales_(from.w->block_scales(from.row)),
        block_cols_(from.w->block_cols),
        first_(from.k) {}

  [[nodiscard]] VecQuad step(int64_t k, E4m3Watch& watch) const {
    watch.see(codes_ + k);
    return load_e4m3(codes_ + k);
  }
  /// The first `count` columns of a step, zeros after them.
  [[nodiscard]] VecQuad tail(int64_t k, int64_t count, E4m3Watch& watch) const {
    uint8_t codes[kCodesPerStep] = {};
    std::memcpy(codes, codes_ + k, static_cast<size_t>(count));
    watch.see(codes);
    return load_e4m3(codes);
  }
  [[nodiscard]] bool has_nan(int64_t count) const {
    return std::any_of(codes_, codes_ + count, [](uint8_t code) { return (code & 0x7fU) == 0x7fU; });
  }
  /// Of the block that column k begins.
  [[nodiscard]] float scale(int64_t k) const { return scales_[(first_ + k) / block_cols_]; }

 private:
  const uint8_t* codes_ = nullptr;
  const float* scales_ = nullptr;
  int64_t block_cols_ = 1;
  int64_t first_ = 0;
};

/// A row of an NVFP4 weight from a multiple of kNvfp4Group on: its codes times their groups' scales.
class Nvfp4Row {
 public:
  static constexpr WeightForm kForm = WeightForm::kNvfp4;
  static constexpr bool kScalesSums = false;

  Nvfp4Row() = default;
  explicit Nvfp4Row(const CodeRows& from)
      : codes_(from.codes()), scales_(from.w->group_scales(from.row) + from.k / kNvfp4Group) {}

  [[nodiscard]] VecQuad step(int64_t k, E4m3Watch& /*watch*/) const {
    return scaled(codes_ + k / kNvfp4CodesPerByte, scales_ + k / kNvfp4Group);
  }
  [[nodiscard]] VecQuad tail(int64_t k, int64_t count, E4m3Watch& /*watch*/) const {
    uint8_t codes[kCodesPerStep / kNvfp4CodesPerByte] = {};
    uint8_t scales[kCodesPerStep / kNvfp4Group] = {};
    std::memcpy(codes, codes_ + k / kNvfp4CodesPerByte, static_cast<size_t>(count / kNvfp4CodesPerByte));
    std::memcpy(scales, scales_ + k / kNvfp4Group, static_cast<size_t>(count / kNvfp4Group));
    return scaled(codes, scales);
  }
  [[nodiscard]] static bool has_nan(int64_t /*count*/) { return false; }  // a scale's shows by itself

 private:
  static VecQuad scaled(const uint8_t* codes, const uint8_t* scales) {
    const VecQuad q = load_e2m1(codes);
    const VecPair s = load_group_scales(scales);
    return {{q.v[0] * s.first, q.v[1] * s.first, q.v[2] * s.second, q.v[3] * s.second}};
  }

  const uint8_t* codes_ = nullptr;
  const uint8_t* scales_ = nullptr;
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// f32 activations packed as for SplitDot against codes.
template <typename CodeRow>
struct CodeDot {
  using Row = CodeRow;
  using Rows = CodeRows;
  using Packed = float;
  static constexpr int kStep = kCodesPerHalf;  // to which a panel is padded

  /// out = `cols` columns of the row, decoded, zeros up to a multiple of kStep. If one of them is NaN, the
  /// first are, which is the same to every product.
  static void panel_row(const CodeRows& from, int64_t cols, float* out) {
    const Row row(from);
    E4m3Watch watch;
    int64_t k = 0;
    for (; k + kCodesPerStep <= cols; k += kCodesPerStep) {
      const VecQuad q = row.step(k, watch);
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) store(out + k + p * kLanes, q.v[p]);
    }
    if (k < cols) {
      const VecQuad q = row.tail(k, cols - k, watch);
      const int vectors = cols - k > kCodesPerHalf ? 4 : 2;
      for (int p = 0; p < vectors; ++p) store(out + k + p * kLanes, q.v[p]);
    }
    if (watch.saw_nan()) store(out, splat(kNan));
  }
};
using Fp8Dot = CodeDot<Fp8Row>;
using Nvfp4Dot = CodeDot<Nvfp4Row>;
/// A row in PackedRows::Order::kScaled: divided by kE4m3Unit, and before by the power of two, `factor`, that
/// brings it below 2, so that nothing overflows. Both are exact.
template <typename X>
void pack_scaled_row(const X* x, int64_t cols, float* out, float& factor) {
  SplitDot::pack_row(x, cols, out);
  const int64_t padded = (cols + kCodesPerHalf - 1) / kCodesPerHalf * kCodesPerHalf;
  Vec largest = zero();
  for (int64_t i = 0; i < padded; i += kLanes) {
    const Vec v = load(out + i);
    largest = max(largest, max(v, zero() - v));
  }
  constexpr int kBias = 127;
  const auto exponent = static_cast<int>(std::bit_cast<uint32_t>(max_lane(largest)) >> 23U) - kBias;
  const int divided = std::clamp(exponent, 0, kBias);
  factor = std::bit_cast<float>(static_cast<uint32_t>(divided + kBias) << 23U);
  const Vec scale = splat(1 / factor / kE4m3Unit);
  for (int64_t i = 0; i < padded; i += kLanes) store(out + i, load(out + i) * scale);
}

/// A decoded panel of FP8 codes, whose blocks still wait for their scales.
struct CodePanelDot : WideDot<float> {};
template <typename Dot>
constexpr bool kScaledX = kE4m3Unit != 1 &&
                          (std::is_same_v<Dot, Fp8Dot> || std::is_same_v<Dot, CodePanelDot>);
template <typename Dot>
constexpr bool kDecodes = std::is_same_v<typename Dot::Rows, CodeRows>;

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
