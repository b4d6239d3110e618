#include "kernels/cpu/cpu_backend.h"

#include <array>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "built_isas.h"

namespace fulgur {
namespace cpu {

// X(scalar) X(avx2) ...: what CMake's FULGUR_CPU_ISAS names.
#define FULGUR_DECLARE(isa)      \
  namespace isa {                \
  extern const Backend kBackend; \
  }
FULGUR_BUILT_ISAS(FULGUR_DECLARE)

}  // namespace cpu

namespace {

struct BuiltIsa {
  std::string_view name;
  const Backend* backend;
};
#define FULGUR_ENTRY(isa) BuiltIsa{#isa, &cpu::isa::kBackend},
constexpr std::array kBuilt = {FULGUR_BUILT_ISAS(FULGUR_ENTRY)};

void append_name(std::string& list, std::string_view name) {
  if (!list.empty()) list += ", ";
  list += name;
}

}  // namespace

bool isa_supported(Isa isa) { return cpu_backend(isa) != nullptr && cpu_runs(isa); }

Isa choose_isa() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here sets the environment
  return choose_isa(isa_supported, std::getenv("FULGUR_ISA"));
}

Isa choose_isa(const std::function<bool(Isa)>& supported, const char* wanted) {
  if (wanted == nullptr) {
    std::optional<Isa> widest;
    std::string built;
    for (const Isa isa : kAllIsas) {
      if (supported(isa)) widest = isa;
      if (cpu_backend(isa) != nullptr) append_name(built, name(isa));
    }
    if (widest) return *widest;
    throw Error(Problem{.kind = ErrorKind::kDevice,
                        .message = "This CPU runs none of the instruction sets that this build is for.",
                        .expected = built,
                        .todo = "use a build that holds scalar (-DFULGUR_CPU_ISAS), which runs everywhere"});
  }
  const std::optional<Isa> isa = parse_isa(wanted);
  if (isa && supported(*isa)) return *isa;
  std::string names;
  for (const Isa each : kAllIsas) {
    if (supported(each)) append_name(names, name(each));
  }
  throw Error(Problem{
      .kind = ErrorKind::kDevice,
      .message = std::string("FULGUR_ISA asks for the instruction set '") + wanted +
                 (isa ? "', which this CPU, its operating system or this build does not support."
                      : "', which Fulgur does not know."),
      .expected = "one of " + names,
      .found = *wanted == '\0' ? "an empty value" : wanted,
      .todo = "unset FULGUR_ISA to take the widest, or name one of these",
  });
}

const Backend* cpu_backend(Isa isa) {
  for (const BuiltIsa& built : kBuilt) {
    if (built.name == name(isa)) return built.backend;
  }
  return nullptr;
}

}  // namespace fulgur
