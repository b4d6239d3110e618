#pragma once

// Vec without intrinsics, 4 lanes of GCC's vector type: SSE2 in a baseline x86-64 build. simd/avx2.h explains
// the vocabulary.

namespace fulgur::cpu::FULGUR_CPU_ISA {

constexpr int kLanes = 4;
constexpr int kVectorRegisters = 16;

using F32x4 [[gnu::vector_size(16)]] = float;
using I32x4 [[gnu::vector_size(16)]] = int32_t;
using U32x4 [[gnu::vector_size(16)]] = uint32_t;

struct Vec {
  F32x4 v;
};
struct Mask {
  I32x4 v;
};

struct VecPair {
  Vec first;
  Vec second;
};
/// 4 * kLanes elements: load_e4m3 and load_e2m1 say in which order.
struct VecQuad {
  Vec v[4];
};

inline Vec zero() { return {F32x4{}}; }
inline Vec splat(float x) { return {F32x4{x, x, x, x}}; }

inline Vec load(const float* p) {
  Vec a;
  std::memcpy(&a.v, p, sizeof a.v);
  return a;
}
template <typename T>
Vec load(const T* p, int n) {
  Vec a = zero();
  for (int i = 0; i < n && i < kLanes; ++i) a.v[i] = cpu::to_float(p[i]);
  return a;
}
inline Vec load(const Bf16* p) {
  const U32x4 bits = {p[0].bits, p[1].bits, p[2].bits, p[3].bits};
  return {reinterpret_cast<F32x4>(bits << 16)};
}
inline Vec load(const F16* p) { return load(p, kLanes); }

inline U32x4 load_pairs(const Bf16* p) {
  U32x4 bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}
inline Vec load_even(const Bf16* p) { return {reinterpret_cast<F32x4>(load_pairs(p) << 16)}; }
inline Vec load_odd(const Bf16* p) { return {reinterpret_cast<F32x4>(load_pairs(p) & 0xffff0000U)}; }

inline Vec in_register(Vec a) {
  asm("" : "+x"(a.v));
  return a;
}

inline Vec load_even(const float* p) { return {F32x4{p[0], p[2], p[4], p[6]}}; }
inline Vec load_odd(const float* p) { return {F32x4{p[1], p[3], p[5], p[7]}}; }

/// value(i) for the even and odd columns i of the first half, then of the second.
template <typename F>
VecQuad quad_of(F&& value) {
  return {{{F32x4{value(0), value(2), value(4), value(6)}},
           {F32x4{value(1), value(3), value(5), value(7)}},
           {F32x4{value(8), value(10), value(12), value(14)}},
           {F32x4{value(9), value(11), value(13), value(15)}}}};
}
inline void decode_e4m3(const uint8_t* p, Bf16* out) {
  for (int i = 0; i < 2 * kLanes; ++i) out[i] = {kE4m3Bits[p[i]]};
}
inline void transpose_pairs(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride) {
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) std::memcpy(to + j * to_stride + 2 * i, from + i * from_stride + 2 * j, 2);
  }
}

constexpr float kE4m3Unit = 1;
/// load_e4m3 gives NaN for NaN.
struct E4m3Watch {
  void see(const uint8_t* /*p*/) {}
  [[nodiscard]] static constexpr bool saw_nan() { return false; }
};
inline VecQuad load_e4m3(const uint8_t* p) {
  return quad_of([p](int i) { return kE4m3Values[p[i]]; });
}
inline VecQuad load_e2m1(const uint8_t* p) {
  return quad_of([p](int i) { return e2m1_to_float(i % 2 == 0 ? p[i / 2] : p[i / 2] >> 4); });
}
inline VecPair load_group_scales(const uint8_t* p) {
  return {splat(kE4m3Values[p[0]]), splat(kE4m3Values[p[0]])};
}

inline void store(float* p, Vec a) { std::memcpy(p, &a.v, sizeof a.v); }
inline void store(float* p, Vec a, int n) {
  for (int i = 0; i < n && i < kLanes; ++i) p[i] = a.v[i];
}
inline void store(Bf16* p, Vec a, int n) {
  for (int i = 0; i < n && i < kLanes; ++i) p[i] = to_bf16(a.v[i]);
}
inline void store(Bf16* p, Vec a) { store(p, a, kLanes); }

inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
inline Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
inline Vec min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
inline Vec sqrt(Vec a) {
  return {F32x4{std::sqrt(a.v[0]), std::sqrt(a.v[1]), std::sqrt(a.v[2]), std::sqrt(a.v[3])}};
}
/// |a| < 2^22: the sum has no bits left for a fraction.
inline Vec round(Vec a) { return {a.v + 12582912.0F - 12582912.0F}; }
inline Vec pow2(Vec n) {
  const I32x4 exponent = __builtin_convertvector(n.v, I32x4) + 127;
  return {reinterpret_cast<F32x4>(reinterpret_cast<U32x4>(exponent) << 23)};
}

inline Mask operator<(Vec a, Vec b) { return {a.v < b.v}; }
inline Mask operator<=(Vec a, Vec b) { return {a.v <= b.v}; }
inline Mask operator>(Vec a, Vec b) { return {a.v > b.v}; }
inline Mask operator==(Vec a, Vec b) { return {a.v == b.v}; }
inline Mask is_nan(Vec a) { return {a.v != a.v}; }
inline Mask operator|(Mask a, Mask b) { return {a.v | b.v}; }
inline Mask operator&(Mask a, Mask b) { return {a.v & b.v}; }
inline Vec select(Mask m, Vec a, Vec b) { return {m.v ? a.v : b.v}; }
inline uint32_t bits(Mask m) { return (m.v[0] & 1U) | (m.v[1] & 2U) | (m.v[2] & 4U) | (m.v[3] & 8U); }

inline VecPair interleave(Vec even, Vec odd) {
  return {{__builtin_shuffle(even.v, odd.v, I32x4{0, 4, 1, 5})},
          {__builtin_shuffle(even.v, odd.v, I32x4{2, 6, 3, 7})}};
}

/// (0 + 2) + (1 + 3)
inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
template <typename Out>
void sum4(Vec a, Vec b, Vec c, Vec d, Out* out) {
  const F32x4 ab =
      __builtin_shuffle(a.v, b.v, I32x4{0, 4, 1, 5}) + __builtin_shuffle(a.v, b.v, I32x4{2, 6, 3, 7});
  const F32x4 cd =
      __builtin_shuffle(c.v, d.v, I32x4{0, 4, 1, 5}) + __builtin_shuffle(c.v, d.v, I32x4{2, 6, 3, 7});
  store(out, {__builtin_shuffle(ab, cd, I32x4{0, 1, 4, 5}) + __builtin_shuffle(ab, cd, I32x4{2, 3, 6, 7})});
}
inline float max_lane(Vec a) { return std::max(std::max(a.v[0], a.v[1]), std::max(a.v[2], a.v[3])); }

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
