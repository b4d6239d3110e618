#include "runtime/choose_backend.h"

#include <utility>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace fulgur {

const Backend& choose_backend() { return *cpu_backend(choose_isa()); }

InstructionSets instruction_sets() {
  InstructionSets sets{.chosen = name(choose_isa())};
  for (const Isa isa : kAllIsas) {
    if (isa_supported(isa)) sets.supported.push_back(name(isa));
  }
  return sets;
}

Gpu gpu() {
  CudaStatus status = cuda_status();
  return {status.built, std::move(status.device), std::move(status.why_not)};
}

}  // namespace fulgur
