#pragma once

// Everything a kernel body uses from outside its own instruction set, compiled for baseline x86-64: it must
// come before the target pragma of src/kernels/cpu/isa/, so that no inline function of a shared header is
// built with wide instructions and then chosen by the linker for the whole program.

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/dtype.h"
#include "base/matrix.h"
#include "base/thread_team.h"
#include "base/weight.h"
#include "kernels/cpu/code_tables.h"
#include "kernels/cpu/crew.h"
#include "kernels/cpu/draw.h"
#include "kernels/cpu/element.h"
#include "ops/arena.h"
#include "ops/backend.h"
#include "ops/context.h"
#include "ops/embed.h"
#include "ops/ffn.h"
#include "ops/indexer_prepare.h"
#include "ops/indexer_select.h"
#include "ops/linear.h"
#include "ops/mla_attention.h"
#include "ops/mla_prepare.h"
#include "ops/moe.h"
#include "ops/mtp_input.h"
#include "ops/norm.h"
#include "ops/paged_cache.h"
#include "ops/sample.h"
#include "ops/token_batch.h"
