#pragma once

#define FULGUR_CPU_ISA scalar

#include "kernels/cpu/simd/scalar.h"
