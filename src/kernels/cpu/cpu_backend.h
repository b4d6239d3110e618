#pragma once

#include <functional>

#include "kernels/cpu/instruction_sets.h"
#include "ops/backend.h"

namespace fulgur {

/// Whether this build holds it, and this CPU and operating system can run it.
bool isa_supported(Isa isa);
/// The widest supported one, or what FULGUR_ISA says. Throws `device` when that names an unknown or
/// unsupported one, and where none is supported.
Isa choose_isa();
/// The same among those that `supported` says yes to; `wanted`: what FULGUR_ISA says, or null.
Isa choose_isa(const std::function<bool(Isa)>& supported, const char* wanted);

/// The kernels built for an instruction set; null if it isn't in this build. Calling them without
/// isa_supported(isa) traps.
const Backend* cpu_backend(Isa isa);

}  // namespace fulgur
