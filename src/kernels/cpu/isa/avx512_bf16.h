#pragma once

#define FULGUR_CPU_ISA avx512_bf16
#define FULGUR_CPU_BF16_DOT
#pragma GCC target( \
    "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt,prefer-vector-width=512")

#include "kernels/cpu/simd/avx512_bf16.h"
