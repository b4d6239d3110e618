#pragma once

#include <array>
#include <optional>
#include <string_view>

namespace fulgur {

/// The instruction sets that CPU kernels can be built for, each including the ones before it but kScalar,
/// which is plain x86-64.
enum class Isa { kScalar, kAvx2, kAvx512, kAvx512Bf16, kAmx };
inline constexpr std::array kAllIsas = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx};

/// "scalar", "avx2", "avx512", "avx512_bf16", "amx": the values of FULGUR_ISA.
std::string_view name(Isa isa);
std::optional<Isa> parse_isa(std::string_view text);

/// Whether this CPU and operating system can run it, whatever this build holds.
bool cpu_runs(Isa isa);

}  // namespace fulgur
