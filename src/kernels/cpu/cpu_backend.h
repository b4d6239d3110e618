#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "ops/backend.h"

namespace fulgur {

/// The instruction sets the CPU kernels are built for, each including the ones before it but kScalar, which
/// is plain x86-64.
enum class Isa { kScalar, kAvx2, kAvx512, kAvx512Bf16, kAmx };

/// "scalar", "avx2", "avx512", "avx512_bf16", "amx": the values of FULGUR_ISA.
std::string_view name(Isa isa);
std::optional<Isa> parse_isa(std::string_view text);

/// Whether this build holds it, and this CPU and operating system can run it.
bool isa_supported(Isa isa);
/// The widest supported one, or what FULGUR_ISA says. Throws `device` when that names an unknown or
/// unsupported one.
Isa choose_isa();

/// The kernels built for an instruction set; null if it isn't in this build. Calling them without
/// isa_supported(isa) traps.
const Backend* cpu_backend(Isa isa);

}  // namespace fulgur
