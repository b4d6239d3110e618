#include "kernels/cpu/instruction_sets.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

namespace fulgur {
namespace {

constexpr std::array<std::string_view, kAllIsas.size()> kNames = {"scalar", "avx2", "avx512", "avx512_bf16",
                                                                  "amx"};

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

/// Asked once: the CPU's answer takes long in a virtual machine, and tiles are requested only where they are
/// looked for.
template <Isa kIsa>
bool detected() {
  static const bool is = detect(kIsa);
  return is;
}

}  // namespace

std::string_view name(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

std::optional<Isa> parse_isa(std::string_view text) {
  for (const Isa isa : kAllIsas) {
    if (name(isa) == text) return isa;
  }
  return std::nullopt;
}

bool cpu_runs(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return detected<Isa::kAvx2>();
    case Isa::kAvx512:
      return detected<Isa::kAvx512>();
    case Isa::kAvx512Bf16:
      return detected<Isa::kAvx512Bf16>();
    case Isa::kAmx:
      return detected<Isa::kAmx>();
  }
  return false;
}

}  // namespace fulgur
