// As many independent chains of FMAs as the register file holds: what one core of this machine reaches at
// most.

#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Runs `rounds` rounds and returns their FLOPs; `sink` keeps the compiler from dropping them.
int64_t run_fma_probe(int64_t rounds, float* sink) {
  constexpr int kChains = 12;
  Vec sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = splat(static_cast<float>(i));
  const Vec factor = splat(0.999F);
  const Vec term = splat(1.001F);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sums[i] = fma(sums[i], factor, term);
  }
  Vec total = zero();
  for (int i = 0; i < kChains; ++i) total = total + sums[i];
  *sink = sum(total);
  return rounds * kChains * kLanes * 2;
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
