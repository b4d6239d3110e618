#pragma once

// What AVX2 and AVX-512 have in common.

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// to[j][i] = from[i][j] for i, j in [0, 8), elements of two bytes; strides in bytes.
inline void transpose_pairs(const uint8_t* from, int64_t from_stride, uint8_t* to, int64_t to_stride) {
  __m128i row[8];
  __m128i next[8];
  for (int i = 0; i < 8; ++i)
    row[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * from_stride));
  for (int i = 0; i < 4; ++i) {
    next[2 * i] = _mm_unpacklo_epi16(row[i], row[i + 4]);
    next[2 * i + 1] = _mm_unpackhi_epi16(row[i], row[i + 4]);
  }
  for (int i = 0; i < 4; ++i) {
    row[2 * i] = _mm_unpacklo_epi16(next[i], next[i + 4]);
    row[2 * i + 1] = _mm_unpackhi_epi16(next[i], next[i + 4]);
  }
  for (int i = 0; i < 4; ++i) {
    next[2 * i] = _mm_unpacklo_epi16(row[i], row[i + 4]);
    next[2 * i + 1] = _mm_unpackhi_epi16(row[i], row[i + 4]);
  }
  for (int i = 0; i < 8; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * to_stride), next[i]);
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
