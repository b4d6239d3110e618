#pragma once

// Rotary embedding of one vector (docs/spec/model.md, section 2).

#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Rotates x[0, 2 * pairs) in place: pair j is (2j, 2j+1) if interleaved, else (j, j + pairs).
inline void rotate(float* x, int pairs, bool interleaved, const float* cos, const float* sin) {
  const int64_t step = interleaved ? 2 : 1;
  const int64_t partner = interleaved ? 1 : pairs;
  for (int64_t j = 0; j < pairs; ++j) {
    const float a = x[j * step];
    const float b = x[j * step + partner];
    x[j * step] = a * cos[j] - b * sin[j];
    x[j * step + partner] = b * cos[j] + a * sin[j];
  }
}

/// out = x, rounded once to T.
template <typename T>
void round_row(const float* x, int64_t size, T* out) {
  for_each_vector(size, [&](int64_t i, auto n) { store(out + i, load(x + i, n), n); });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
