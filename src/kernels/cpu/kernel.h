#pragma once

// What every kernel body src/kernels/cpu/*.cc includes first. The build compiles each body once for each
// instruction set through a generated wrapper: prelude.h, push_options, isa/<isa>.h (target pragma,
// FULGUR_CPU_ISA, its Vec), the body, pop_options. A tool that opens a body by itself reads the scalar one.
// The headers that only bodies share (rows.h, gemm.h, ...) are ordinary ones, in the namespace of the
// instruction set: a wrapper has just one.

#include "kernels/cpu/prelude.h"

#ifndef FULGUR_CPU_ISA
#include "kernels/cpu/isa/scalar.h"
#endif

#include "kernels/cpu/simd/math.h"
