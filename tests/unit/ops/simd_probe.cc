// The vector functions of one instruction set, as functions over arrays that a test can call.

#include "simd_probe.h"

#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/top_k.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

extern const test::SimdProbe kSimdProbe;
constinit const test::SimdProbe kSimdProbe = {
    .exp =
        [](const float* x, int64_t size, float* out) {
          for_each_vector(size, [&](int64_t i, auto n) { store(out + i, exp(load(x + i, n)), n); });
        },
    .sigmoid =
        [](const float* x, int64_t size, float* out) {
          for_each_vector(size, [&](int64_t i, auto n) { store(out + i, sigmoid(load(x + i, n)), n); });
        },
    .silu =
        [](const float* x, int64_t size, float* out) {
          for_each_vector(size, [&](int64_t i, auto n) { store(out + i, silu(load(x + i, n)), n); });
        },
    .to_bf16 =
        [](const float* x, int64_t size, Bf16* out) {
          for_each_vector(size, [&](int64_t i, auto n) { store(out + i, load(x + i, n), n); });
        },
    .from_e4m3 =
        [](const uint8_t* codes, Bf16* out) {
          for (int i = 0; i < 256; i += 2 * kLanes) decode_e4m3(codes + i, out + i);
        },
    .transpose_pairs = [](const uint8_t* from, int64_t from_stride, uint8_t* to,
                          int64_t to_stride) { transpose_pairs(from, from_stride, to, to_stride); },
    .sums =
        [](const float* x, int64_t size, float* out) {
          for (int64_t i = 0; i + kLanes <= size; i += kLanes) out[i / kLanes] = sum(load(x + i));
        },
    .sums4 =
        [](const float* x, int64_t size, float* out) {
          for (int64_t i = 0; i + 4 * kLanes <= size; i += 4 * kLanes) {
            sum4(load(x + i), load(x + i + kLanes), load(x + i + 2 * kLanes), load(x + i + 3 * kLanes),
                 out + i / kLanes);
          }
        },
    .top_k = [](float* scores, int64_t n, int64_t most, int64_t k, float* scratch,
                int32_t* best) { return TopK(most, scratch).select(scores, n, k, best); },
    .lanes = kLanes,
};

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
