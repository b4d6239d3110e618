#pragma once

// Vec over AVX-512 F, BW, DQ and VL: 16 lanes. simd/avx2.h explains the vocabulary.

#include "kernels/cpu/simd/transpose.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

constexpr int kLanes = 16;
constexpr int kVectorRegisters = 32;

struct Vec {
  __m512 v;
};
struct Mask {
  __mmask16 v;
};

struct VecPair {
  Vec first;
  Vec second;
};
/// 4 * kLanes elements: load_e4m3 and load_e2m1 say in which order.
struct VecQuad {
  Vec v[4];
};

inline Vec zero() { return {_mm512_setzero_ps()}; }
inline Vec splat(float x) { return {_mm512_set1_ps(x)}; }

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffffU : (1U << n) - 1U); }

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec load(const float* p, int n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }

inline Vec widen_bf16(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline Vec load(const Bf16* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load(const Bf16* p, int n) { return widen_bf16(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline Vec load(const F16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec load(const F16* p, int n) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(n), p))};
}

inline Vec load_even(const Bf16* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
inline Vec load_odd(const Bf16* p) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32(static_cast<int>(0xffff0000U))))};
}

inline Vec in_register(Vec a) {
  asm("" : "+v"(a.v));
  return a;
}

inline Vec load_even(const float* p) {
  const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return {_mm512_permutex2var_ps(_mm512_loadu_ps(p), index, _mm512_loadu_ps(p + 16))};
}
inline Vec load_odd(const float* p) {
  const __m512i index = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_permutex2var_ps(_mm512_loadu_ps(p), index, _mm512_loadu_ps(p + 16))};
}

/// 32 e4m3 codes as bf16, in order (code_tables.h says how).
inline __m512i load_e4m3_as_bf16(const uint8_t* p) {
  alignas(64) static constexpr auto kRepair = [] {
    std::array<uint16_t, 32> table{};
    for (size_t i = 0; i < kE4m3Repair.size(); ++i) table[i] = kE4m3Repair[i];
    return table;
  }();
  const __m512i codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  const __m512i sign_and_bits =
      _mm512_and_si512(_mm512_slli_epi16(codes, 4), _mm512_set1_epi16(static_cast<short>(0x87f0)));
  const __m512i moved = _mm512_add_epi16(sign_and_bits, _mm512_set1_epi16(kE4m3Rebias));
  const __m512i next = _mm512_add_epi16(codes, _mm512_set1_epi16(1));
  const __mmask32 special = _mm512_testn_epi16_mask(next, _mm512_set1_epi16(0x70));
  return _mm512_xor_si512(moved,
                          _mm512_maskz_permutexvar_epi16(special, next, _mm512_load_si512(kRepair.data())));
}

inline void decode_e4m3(const uint8_t* p, Bf16* out) { _mm512_storeu_si512(out, load_e4m3_as_bf16(p)); }

constexpr float kE4m3Unit = 1;
/// load_e4m3 gives NaN for NaN.
struct E4m3Watch {
  void see(const uint8_t* /*p*/) {}
  [[nodiscard]] static constexpr bool saw_nan() { return false; }
};
inline VecQuad load_e4m3(const uint8_t* p) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000U));
  const __m512i first = load_e4m3_as_bf16(p);
  const __m512i second = load_e4m3_as_bf16(p + 32);
  return {{{_mm512_castsi512_ps(_mm512_slli_epi32(first, 16))},
           {_mm512_castsi512_ps(_mm512_and_si512(first, upper))},
           {_mm512_castsi512_ps(_mm512_slli_epi32(second, 16))},
           {_mm512_castsi512_ps(_mm512_and_si512(second, upper))}}};
}

/// The even and odd columns of 32 in 16 bytes.
inline VecPair load_e2m1_half(const uint8_t* p) {
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512 values = _mm512_setr_ps(0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F,  //
                                       -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F);
  return {{_mm512_permutexvar_ps(bytes, values)},
          {_mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values)}};
}
inline VecQuad load_e2m1(const uint8_t* p) {
  const VecPair first = load_e2m1_half(p);
  const VecPair second = load_e2m1_half(p + 16);
  return {{first.first, first.second, second.first, second.second}};
}

/// Of two groups, in the lanes of their even or odd columns.
inline Vec load_scale_pair(const uint8_t* p) {
  return {_mm512_insertf32x8(_mm512_set1_ps(kE4m3Values[p[0]]), _mm256_set1_ps(kE4m3Values[p[1]]), 1)};
}
inline VecPair load_group_scales(const uint8_t* p) { return {load_scale_pair(p), load_scale_pair(p + 2)}; }

inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void store(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }

/// In integers: VCVTNEPS2BF16 takes denormals for zeros, to_bf16() doesn't.
inline __m256i round_to_bf16(Vec a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, rounded, quiet));
}
inline void store(Bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_to_bf16(a)); }
inline void store(Bf16* p, Vec a, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), round_to_bf16(a)); }

inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec round(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline Vec pow2(Vec n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}

inline Mask operator<(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask operator<=(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline Mask operator>(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline Mask operator==(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
inline Mask is_nan(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
inline Mask operator|(Mask a, Mask b) { return {static_cast<__mmask16>(a.v | b.v)}; }
inline Mask operator&(Mask a, Mask b) { return {static_cast<__mmask16>(a.v & b.v)}; }
inline Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
inline uint32_t bits(Mask m) { return m.v; }

inline VecPair interleave(Vec even, Vec odd) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return {{_mm512_permutex2var_ps(even.v, first, odd.v)}, {_mm512_permutex2var_ps(even.v, second, odd.v)}};
}

inline __m128 sum4_vector(Vec a, Vec b, Vec c, Vec d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a.v, b.v), _mm512_unpackhi_ps(a.v, b.v));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c.v, d.v), _mm512_unpackhi_ps(c.v, d.v));
  const __m512 low = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
  const __m512 high = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)));
  const __m512 all = _mm512_add_ps(low, high);
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}
inline void sum4(Vec a, Vec b, Vec c, Vec d, float* out) { _mm_storeu_ps(out, sum4_vector(a, b, c, d)); }
inline void sum4(Vec a, Vec b, Vec c, Vec d, Bf16* out) {
  const __m512 sums = _mm512_castps128_ps512(sum4_vector(a, b, c, d));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(round_to_bf16({sums})));
}
inline float sum(Vec a) { return _mm_cvtss_f32(sum4_vector(a, a, a, a)); }
inline float max_lane(Vec a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
