#pragma once

#define FULGUR_CPU_ISA avx2
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")

#include "kernels/cpu/simd/avx2.h"
