#include "kernels/cpu/cpu_backend.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>

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

struct IsaEntry {
  Isa isa;
  std::string_view name;
};
constexpr std::array<IsaEntry, 5> kIsas = {{
    {Isa::kScalar, "scalar"},
    {Isa::kAvx2, "avx2"},
    {Isa::kAvx512, "avx512"},
    {Isa::kAvx512Bf16, "avx512_bf16"},
    {Isa::kAmx, "amx"},
}};

struct BuiltIsa {
  std::string_view name;
  const Backend* backend;
};
#define FULGUR_ENTRY(isa) BuiltIsa{#isa, &cpu::isa::kBackend},
constexpr std::array kBuilt = {FULGUR_BUILT_ISAS(FULGUR_ENTRY)};

struct Cpuid {
  uint32_t eax = 0;
  uint32_t ebx = 0;
  uint32_t ecx = 0;
  uint32_t edx = 0;
};
Cpuid cpuid(uint32_t leaf, uint32_t subleaf) {
  Cpuid id;
  if (__get_cpuid_count(leaf, subleaf, &id.eax, &id.ebx, &id.ecx, &id.edx) == 0) return {};
  return id;
}

constexpr bool bit(uint64_t word, int i) { return ((word >> i) & 1U) != 0; }

/// The register states that the operating system saves (XCR0).
uint64_t saved_states() {
  if (!bit(cpuid(1, 0).ecx, 27)) return 0;  // OSXSAVE
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

/// Linux gives a process the use of the tile registers on request, for all its threads begun afterwards and
/// this one.
bool request_tiles() {
#if defined(__linux__)
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXtileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXtileData) == 0;
#else
  return false;
#endif
}

bool detect(Isa isa) {
  constexpr uint64_t kYmm = 0x6;
  constexpr uint64_t kZmm = 0xe6;
  constexpr uint64_t kTiles = 0x60000;
  const Cpuid basic = cpuid(1, 0);
  const Cpuid extended = cpuid(7, 0);
  const uint64_t states = saved_states();
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      // FMA, POPCNT, F16C; BMI1, AVX2, BMI2; LZCNT
      return (states & kYmm) == kYmm && bit(basic.ecx, 12) && bit(basic.ecx, 23) && bit(basic.ecx, 29) &&
             bit(extended.ebx, 3) && bit(extended.ebx, 5) && bit(extended.ebx, 8) &&
             bit(cpuid(0x80000001, 0).ecx, 5);
    case Isa::kAvx512:
      // F, DQ, CD, BW, VL
      return detect(Isa::kAvx2) && (states & kZmm) == kZmm && bit(extended.ebx, 16) &&
             bit(extended.ebx, 17) && bit(extended.ebx, 28) && bit(extended.ebx, 30) && bit(extended.ebx, 31);
    case Isa::kAvx512Bf16:
      return detect(Isa::kAvx512) && bit(cpuid(7, 1).eax, 5);
    case Isa::kAmx:
      // AMX-BF16, AMX-TILE
      return detect(Isa::kAvx512Bf16) && bit(extended.edx, 22) && bit(extended.edx, 24) &&
             (states & kTiles) == kTiles && request_tiles();
  }
  return false;
}

std::string supported_names() {
  std::string list;
  for (const IsaEntry& entry : kIsas) {
    if (!isa_supported(entry.isa)) continue;
    if (!list.empty()) list += ", ";
    list += entry.name;
  }
  return list;
}

}  // namespace

std::string_view name(Isa isa) { return kIsas[static_cast<size_t>(isa)].name; }

std::optional<Isa> parse_isa(std::string_view text) {
  for (const IsaEntry& entry : kIsas) {
    if (entry.name == text) return entry.isa;
  }
  return std::nullopt;
}

bool isa_supported(Isa isa) {
  if (cpu_backend(isa) == nullptr) return false;
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2: {
      static const bool supported = detect(Isa::kAvx2);
      return supported;
    }
    case Isa::kAvx512: {
      static const bool supported = detect(Isa::kAvx512);
      return supported;
    }
    case Isa::kAvx512Bf16: {
      static const bool supported = detect(Isa::kAvx512Bf16);
      return supported;
    }
    case Isa::kAmx: {
      static const bool supported = detect(Isa::kAmx);
      return supported;
    }
  }
  return false;
}

Isa choose_isa() {
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here sets the environment
  if (const char* wanted = std::getenv("FULGUR_ISA"); wanted != nullptr) {
    const std::optional<Isa> isa = parse_isa(wanted);
    const bool known = isa.has_value();
    if (known && isa_supported(*isa)) return *isa;
    throw Error(Problem{
        .kind = ErrorKind::kDevice,
        .message = std::string("FULGUR_ISA asks for the instruction set '") + wanted +
                   (known ? "', which this CPU, its operating system or this build does not support."
                          : "', which Fulgur does not know."),
        .expected = "one of " + supported_names(),
        .found = *wanted == '\0' ? "an empty value" : wanted,
        .todo = "unset FULGUR_ISA to take the widest, or name one of these",
    });
  }
  Isa best = Isa::kScalar;
  for (const IsaEntry& entry : kIsas) {
    if (isa_supported(entry.isa)) best = entry.isa;
  }
  return best;
}

const Backend* cpu_backend(Isa isa) {
  for (const BuiltIsa& built : kBuilt) {
    if (built.name == name(isa)) return built.backend;
  }
  return nullptr;
}

}  // namespace fulgur
