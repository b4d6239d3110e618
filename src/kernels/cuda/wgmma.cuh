#pragma once

// Products of a warpgroup [wgmma] (PTX ISA 9.0): d (+)= A B^T with sums in f32 (of e4m3 products: about 14
// bits of the largest summand are kept); accumulate = 0 starts at zero. A has 64 rows, from registers or
// shared memory; B, of as many rows as twice the sums a thread holds, is in shared memory. What is there is
// K-major with 128-byte swizzle.

#include "kernels/cuda/hopper.cuh"

namespace fulgur::cuda {

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// What the matrix unit needs to know of an operand: rows of 128 bytes, eight of them to a swizzled block of
/// 1,024.
__device__ inline uint64_t swizzled_operand(uint32_t address) {
  constexpr uint64_t kBlockStride = uint64_t{1024 >> 4} << 32;
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kLeadingUnused = uint64_t{1} << 16;
  return kSwizzle128 | kBlockStride | kLeadingUnused | ((address & 0x3FFFF) >> 4);
}

// An instruction names every sum: as operands, and by their numbers, which are the first ones.
#define FULGUR_SUMS_4(d, i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define FULGUR_SUMS_8(d, i) FULGUR_SUMS_4(d, i), FULGUR_SUMS_4(d, (i) + 4)
#define FULGUR_SUMS_16(d, i) FULGUR_SUMS_8(d, i), FULGUR_SUMS_8(d, (i) + 8)
#define FULGUR_SUMS_32(d, i) FULGUR_SUMS_16(d, i), FULGUR_SUMS_16(d, (i) + 16)
#define FULGUR_SUMS_64(d, i) FULGUR_SUMS_32(d, i), FULGUR_SUMS_32(d, (i) + 32)
#define FULGUR_NAMES_4 "%0, %1, %2, %3"
#define FULGUR_NAMES_8 FULGUR_NAMES_4 ", %4, %5, %6, %7"
#define FULGUR_NAMES_16 FULGUR_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define FULGUR_NAMES_32 \
  FULGUR_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define FULGUR_NAMES_64                                                                \
  FULGUR_NAMES_32                                                                      \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// Behind the sums: A (its four registers, or its descriptor), B's descriptor, and whether to accumulate; by
// numbers.
#define FULGUR_WGMMA(sums, instruction, a, b, accumulates, scales)                                  \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " accumulates ", 0;\nwgmma.mma_async.sync.aligned." instruction \
  " {" FULGUR_NAMES_##sums "}, " a ", " b ", p, " scales ";\n}\n"
#define FULGUR_WGMMA_REGISTERS(sums, instruction, a_, b_, accumulates, scales)      \
  asm volatile(FULGUR_WGMMA(sums, instruction, "{" a_ "}", b_, accumulates, scales) \
               : FULGUR_SUMS_##sums(d, 0)                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))
#define FULGUR_WGMMA_SHARED(sums, instruction, a_, b_, accumulates, scales) \
  asm volatile(FULGUR_WGMMA(sums, instruction, a_, b_, accumulates, scales) \
               : FULGUR_SUMS_##sums(d, 0)                                   \
               : "l"(a), "l"(b), "r"(accumulate))

// 32 columns in e4m3; B: 32, 64 or 128 rows.
__device__ inline void wgmma_e4m3(float (&d)[16], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  FULGUR_WGMMA_REGISTERS(16, "m64n32k32.f32.e4m3.e4m3", "%16, %17, %18, %19", "%20", "%21", "1, 1");
}
__device__ inline void wgmma_e4m3(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  FULGUR_WGMMA_REGISTERS(32, "m64n64k32.f32.e4m3.e4m3", "%32, %33, %34, %35", "%36", "%37", "1, 1");
}
__device__ inline void wgmma_e4m3(float (&d)[64], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  FULGUR_WGMMA_REGISTERS(64, "m64n128k32.f32.e4m3.e4m3", "%64, %65, %66, %67", "%68", "%69", "1, 1");
}
__device__ inline void wgmma_e4m3(float (&d)[64], uint64_t a, uint64_t b, int accumulate) {
  FULGUR_WGMMA_SHARED(64, "m64n128k32.f32.e4m3.e4m3", "%64", "%65", "%66", "1, 1");
}

// 16 columns in f16; B: 8, 16, 32 or 64 rows.
__device__ inline void wgmma_f16(float (&d)[4], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  FULGUR_WGMMA_REGISTERS(4, "m64n8k16.f32.f16.f16", "%4, %5, %6, %7", "%8", "%9", "1, 1, 0");
}
__device__ inline void wgmma_f16(float (&d)[8], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  FULGUR_WGMMA_REGISTERS(8, "m64n16k16.f32.f16.f16", "%8, %9, %10, %11", "%12", "%13", "1, 1, 0");
}
__device__ inline void wgmma_f16(float (&d)[16], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  FULGUR_WGMMA_REGISTERS(16, "m64n32k16.f32.f16.f16", "%16, %17, %18, %19", "%20", "%21", "1, 1, 0");
}
__device__ inline void wgmma_f16(float (&d)[32], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  FULGUR_WGMMA_REGISTERS(32, "m64n64k16.f32.f16.f16", "%32, %33, %34, %35", "%36", "%37", "1, 1, 0");
}

#undef FULGUR_WGMMA_SHARED
#undef FULGUR_WGMMA_REGISTERS
#undef FULGUR_WGMMA
#undef FULGUR_NAMES_64
#undef FULGUR_NAMES_32
#undef FULGUR_NAMES_16
#undef FULGUR_NAMES_8
#undef FULGUR_NAMES_4
#undef FULGUR_SUMS_64
#undef FULGUR_SUMS_32
#undef FULGUR_SUMS_16
#undef FULGUR_SUMS_8
#undef FULGUR_SUMS_4

/// Keeps the compiler from moving reads or writes of sums across this point, beside products under way.
template <int kSums>
__device__ inline void pin(float (&sums)[kSums]) {
#pragma unroll
  for (float& sum : sums) asm volatile("" : "+f"(sum)::"memory");
}

}  // namespace fulgur::cuda
