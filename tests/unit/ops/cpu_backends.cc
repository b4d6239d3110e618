// The CPU's instruction sets, for the tests that run on every back end.

#include "kernels/cpu/cpu_backend.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {

std::vector<Tested> tested_backends() {
  std::vector<Tested> tested;
  for (const Isa isa : kAllIsas) {
    if (isa_supported(isa)) tested.push_back({cpu_backend(isa)});
  }
  return tested;
}

cuda::Stream* stream_for(const Backend&, int) { return nullptr; }

}  // namespace fulgur::test
