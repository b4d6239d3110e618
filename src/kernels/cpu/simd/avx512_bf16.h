#pragma once

// AVX512-BF16's dot product of bf16 pairs: lane i of acc += w[2i] x[2i] + w[2i+1] x[2i+1]. It takes denormals
// for zeros.

#include "kernels/cpu/simd/avx512.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// 32 bf16 as they lie in memory.
struct BfVec {
  __m512i v;
};
inline BfVec load_bf16(const Bf16* p) { return {_mm512_loadu_si512(p)}; }
/// The first n, at most 32, and zeros after them.
inline BfVec load_bf16(const Bf16* p, int n) {
  return {_mm512_maskz_loadu_epi16(static_cast<__mmask32>(n >= 32 ? 0xffffffffU : (1U << n) - 1U), p)};
}
inline BfVec in_register(BfVec a) {
  __asm__("" : "+v"(a.v));
  return a;
}
inline void store_bf16(Bf16* p, BfVec a) { _mm512_storeu_si512(p, a.v); }
inline Vec dot(BfVec w, BfVec x, Vec acc) { return {_mm512_dpbf16_ps(acc.v, (__m512bh)w.v, (__m512bh)x.v)}; }

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
