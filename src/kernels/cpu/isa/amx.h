#pragma once

#define FULGUR_CPU_ISA amx
#define FULGUR_CPU_BF16_DOT
#define FULGUR_CPU_TILES
#pragma GCC target( \
    "amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")

#include "kernels/cpu/simd/amx.h"
#include "kernels/cpu/simd/avx512_bf16.h"
