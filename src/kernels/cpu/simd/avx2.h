#pragma once

// Vec over AVX2, FMA and F16C: 8 lanes. The vocabulary is the same in every simd header:
//
//   load(p), load(p, n)     kLanes elements of float, Bf16 or F16 as f32;
//                           with n, the first n and zeros after them,
//                           touching nothing behind p + n
//   load_even/odd(p)        the even or odd ones of 2 * kLanes elements; of bf16 by one shift or mask each
//   load_e4m3(p), _e2m1(p)  4 * kLanes codes (two a byte in e2m1): the even and the odd ones of the first
//   half,
//                           then of the second. e4m3: times kE4m3Unit, and E4m3Watch says whether one is NaN
//   decode_e4m3(p, out)     2 * kLanes codes as bf16, in order
//   transpose_pairs(...)    8 x 8 elements of two bytes
//   load_group_scales(p)    the e4m3 scales of 4 * kLanes e2m1 codes, as lanes of the first half's even or
//   odd
//                           ones and of the second's
//   store(p, v), (p, v, n)  to float, or rounded (nearest, ties to even) to Bf16
//   fma(a, b, c)            a * b + c, one rounding; two in the scalar build
//   max(a, b), min(a, b)    b where either is a NaN
//   sum(v), sum4(..)        one fixed tree over the lanes; sum4 gives each sum the bits of sum()
//   a < b, <=, ==           Mask; false where either is a NaN

#include "kernels/cpu/simd/transpose.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

constexpr int kLanes = 8;
constexpr int kVectorRegisters = 16;

struct Vec {
  __m256 v;
};
struct Mask {
  __m256 v;
};

/// 2 * kLanes elements in order.
struct VecPair {
  Vec first;
  Vec second;
};
/// 4 * kLanes elements: load_e4m3 and load_e2m1 say in which order.
struct VecQuad {
  Vec v[4];
};

inline Vec zero() { return {_mm256_setzero_ps()}; }
inline Vec splat(float x) { return {_mm256_set1_ps(x)}; }

/// All ones in the first n of 8 32-bit lanes.
inline __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Vec load(const float* p, int n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }

inline Vec widen_bf16(__m128i bits) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
/// The first n (at most 8) 16-bit elements, zeros after them.
inline __m128i load_partial16(const void* p, int n) {
  alignas(16) uint16_t buffer[8] = {};
  std::memcpy(buffer, p, static_cast<size_t>(std::min(n, 8)) * 2);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
}
inline Vec load(const Bf16* p) { return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec load(const Bf16* p, int n) { return widen_bf16(load_partial16(p, n)); }
inline Vec load(const F16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Vec load(const F16* p, int n) { return {_mm256_cvtph_ps(load_partial16(p, n))}; }

inline Vec load_even(const Bf16* p) {
  return {
      _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), 16))};
}
inline Vec load_odd(const Bf16* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(static_cast<int>(0xffff0000U))))};
}

/// a, loaded once: GCC otherwise repeats the load in every instruction that uses it.
inline Vec in_register(Vec a) {
  asm("" : "+x"(a.v));
  return a;
}

inline Vec load_even(const float* p) {
  const __m256 mixed = _mm256_shuffle_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8), 0x88);
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8))};
}
inline Vec load_odd(const float* p) {
  const __m256 mixed = _mm256_shuffle_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8), 0xdd);
  return {_mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8))};
}

/// A PSHUFB table in both lanes.
inline __m256i load_table(const ByteTable& table) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table.bytes.data())));
}

/// 2 x 16 bf16, to f32: even and odd ones of the first 16, then of the second.
inline VecQuad widen_bf16_pairs(__m256i first, __m256i second) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000U));
  return {{{_mm256_castsi256_ps(_mm256_slli_epi32(first, 16))},
           {_mm256_castsi256_ps(_mm256_and_si256(first, upper))},
           {_mm256_castsi256_ps(_mm256_slli_epi32(second, 16))},
           {_mm256_castsi256_ps(_mm256_and_si256(second, upper))}}};
}

/// What load_e4m3's values are multiplied by. A code's bits moved into an f32, without further ado, are its
/// value times this: a normal f32 for a normal code, a subnormal one for a subnormal code. Published weights
/// have about one of those in ten thousand; where many are (uniformly random codes), Intel's processors,
/// which take a hundred cycles for such an operand, multiply dozens of times slower (docs/performance.md).
/// Decoding by tables or by way of f16 avoids it and halves the speed of a single row on AMD's.
constexpr float kE4m3Unit = 0x1p-120F;
inline VecQuad load_e4m3(const uint8_t* p) {
  const auto widen = [p](int first) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + first)));
  };
  const auto place = [](__m256i moved) {  // drops what the sign extension left in the exponent
    return Vec{
        _mm256_castsi256_ps(_mm256_and_si256(moved, _mm256_set1_epi32(static_cast<int>(0x87f00000U))))};
  };
  const __m256i first = widen(0);
  const __m256i second = widen(16);
  return {{place(_mm256_slli_epi32(first, 20)), place(_mm256_slli_epi32(first, 4)),
           place(_mm256_slli_epi32(second, 20)), place(_mm256_slli_epi32(second, 4))}};
}

/// Finds NaN, which load_e4m3 takes for 480, among the codes of the steps it sees.
class E4m3Watch {
 public:
  E4m3Watch() : largest_(_mm256_setzero_si256()) {}  // GCC would compile an implicit one for the baseline
  void see(const uint8_t* p) {
    const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    largest_ = _mm256_max_epu8(largest_, _mm256_and_si256(codes, _mm256_set1_epi8(0x7f)));
  }
  [[nodiscard]] bool saw_nan() const {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(largest_, _mm256_set1_epi8(0x7f))) != 0;
  }

 private:
  __m256i largest_;
};

inline void decode_e4m3(const uint8_t* p, Bf16* out) {
  const __m256i codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i sign_and_bits =
      _mm256_and_si256(_mm256_slli_epi16(codes, 4), _mm256_set1_epi16(static_cast<short>(0x87f0)));
  const __m256i moved = _mm256_add_epi16(sign_and_bits, _mm256_set1_epi16(kE4m3Rebias));
  const __m256i next = _mm256_add_epi16(codes, _mm256_set1_epi16(1));
  const __m256i special =
      _mm256_cmpeq_epi16(_mm256_and_si256(next, _mm256_set1_epi16(0x70)), _mm256_setzero_si256());
  // PSHUFB gives 0 for the bytes of the index that are none of theirs.
  const __m256i index = _mm256_and_si256(next, _mm256_set1_epi16(0x0f));
  const __m256i low = _mm256_shuffle_epi8(
      load_table(kE4m3RepairLow), _mm256_or_si256(index, _mm256_set1_epi16(static_cast<short>(0x8000))));
  const __m256i high = _mm256_shuffle_epi8(
      load_table(kE4m3RepairHigh), _mm256_or_si256(_mm256_slli_epi16(index, 8), _mm256_set1_epi16(0x0080)));
  const __m256i repair = _mm256_and_si256(special, _mm256_or_si256(low, high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_xor_si256(moved, repair));
}

// Bytes b and b + 8 side by side, so that after unpacking, widening the even (or odd) ones of 16 bf16 gives
// the even columns of the first (or second) half; the odd columns, from the upper nibbles, alike.
inline VecQuad load_e2m1(const uint8_t* p) {
  const __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i order = _mm256_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 0, 8, 1, 9, 2, 10, 3, 11,  //
                                         4, 12, 5, 13, 6, 14, 7, 15, 4, 12, 5, 13, 6, 14, 7, 15);
  const __m256i nibbles =
      _mm256_and_si256(_mm256_srlv_epi64(_mm256_shuffle_epi8(bytes, order), _mm256_setr_epi64x(0, 4, 0, 4)),
                       _mm256_set1_epi8(0x0f));
  const __m256i high = _mm256_shuffle_epi8(load_table(kE2m1High), nibbles);
  const __m256i low = _mm256_shuffle_epi8(load_table(kE2m1Low), nibbles);
  const VecQuad even = widen_bf16_pairs(_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high));
  return {{even.v[0], even.v[2], even.v[1], even.v[3]}};
}

inline VecPair load_group_scales(const uint8_t* p) {
  return {splat(kE4m3Values[p[0]]), splat(kE4m3Values[p[1]])};
}

inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
inline void store(float* p, Vec a, int n) { _mm256_maskstore_ps(p, first_lanes(n), a.v); }

inline __m128i round_to_bf16(Vec a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}
inline void store(Bf16* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), round_to_bf16(a)); }
inline void store(Bf16* p, Vec a, int n) {
  alignas(16) uint16_t buffer[8];
  _mm_store_si128(reinterpret_cast<__m128i*>(buffer), round_to_bf16(a));
  std::memcpy(p, buffer, static_cast<size_t>(std::min(n, 8)) * 2);
}

inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
/// To the nearest integer, ties to even.
inline Vec round(Vec a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
/// 2^n for integral n in [-126, 127]; 0 for n = -127.
inline Vec pow2(Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}

inline Mask operator<(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator<=(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask operator>(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator==(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
inline Mask is_nan(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.v, b.v)}; }
inline Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.v, b.v)}; }
inline Vec select(Mask m, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
/// Bit i: lane i.
inline uint32_t bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m.v)); }

/// The inverse of load_even and load_odd.
inline VecPair interleave(Vec even, Vec odd) {
  const __m256 low = _mm256_unpacklo_ps(even.v, odd.v);
  const __m256 high = _mm256_unpackhi_ps(even.v, odd.v);
  return {{_mm256_permute2f128_ps(low, high, 0x20)}, {_mm256_permute2f128_ps(low, high, 0x31)}};
}

/// Lane i: the sum of v[i], each by the tree of sum().
inline __m128 sum4_vector(Vec a, Vec b, Vec c, Vec d) {
  const __m256 ab = _mm256_add_ps(_mm256_unpacklo_ps(a.v, b.v), _mm256_unpackhi_ps(a.v, b.v));
  const __m256 cd = _mm256_add_ps(_mm256_unpacklo_ps(c.v, d.v), _mm256_unpackhi_ps(c.v, d.v));
  const __m256 low = _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd)));
  const __m256 high = _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd)));
  const __m256 all = _mm256_add_ps(low, high);
  return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}
inline void sum4(Vec a, Vec b, Vec c, Vec d, float* out) { _mm_storeu_ps(out, sum4_vector(a, b, c, d)); }
inline void sum4(Vec a, Vec b, Vec c, Vec d, Bf16* out) {
  const __m256 sums = _mm256_castps128_ps256(sum4_vector(a, b, c, d));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), round_to_bf16({sums}));
}
/// ((0 + 2) + (1 + 3)) + ((4 + 6) + (5 + 7))
inline float sum(Vec a) { return _mm_cvtss_f32(sum4_vector(a, a, a, a)); }
inline float max_lane(Vec a) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
