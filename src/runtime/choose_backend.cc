#include "runtime/choose_backend.h"

#include "kernels/cpu/cpu_backend.h"

namespace fulgur {

const Backend& choose_backend() { return *cpu_backend(choose_isa()); }

InstructionSets instruction_sets() {
  InstructionSets sets{.chosen = name(choose_isa())};
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    if (isa_supported(isa)) sets.supported.push_back(name(isa));
  }
  return sets;
}

}  // namespace fulgur
