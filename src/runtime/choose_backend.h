#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ops/backend.h"

namespace fulgur {

// The one place that sees kernels: everything else knows ops and a back end's table of them.

/// The CPU kernels of the widest instruction set that this machine can run, or of the one FULGUR_ISA names.
/// Throws `device` where that names one that isn't there.
const Backend& choose_backend();

/// As FULGUR_ISA names them.
struct InstructionSets {
  std::vector<std::string_view> supported;  // by build, CPU and operating system; narrowest first
  std::string_view chosen;                  // choose_backend()'s
};
InstructionSets instruction_sets();

/// The CUDA back end of this build on this machine.
struct Gpu {
  bool built = false;
  std::string device;   // "NVIDIA H200, 132 multiprocessors, 139.8 GiB"; empty where there is none
  std::string why_not;  // why its kernels can't run, a sentence; empty where they can
};
Gpu gpu();

}  // namespace fulgur
