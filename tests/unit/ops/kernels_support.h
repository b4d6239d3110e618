#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/matrix.h"
#include "base/thread_team.h"
#include "base/weight.h"
#include "kernels/cpu/cpu_backend.h"
#include "ops/context.h"

namespace fulgur::test {

/// The instruction sets that this machine can run, narrowest first.
inline std::vector<Isa> runnable_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : kAllIsas) {
    if (isa_supported(isa)) isas.push_back(isa);
  }
  return isas;
}

/// A context of its own team and arena.
struct Machine {
  Machine(Isa isa, int threads) : team(threads), arena(*cpu_backend(isa)) {
    context = {.backend = cpu_backend(isa), .team = &team, .arena = &arena};
  }
  ThreadTeam team;
  Arena arena;
  Context context;
};

/// Elements of one dtype: bf16, f16 or f32.
struct Values {
  DType dtype{};
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint16_t> narrow;
  std::vector<float> wide;

  void* data() {
    return dtype == DType::kF32 ? static_cast<void*>(wide.data()) : static_cast<void*>(narrow.data());
  }
  [[nodiscard]] float at(int64_t r, int64_t c) const {
    const auto i = static_cast<size_t>(r * cols + c);
    if (dtype == DType::kF32) return wide[i];
    return dtype == DType::kF16 ? half_to_float(narrow[i]) : to_float(Bf16{narrow[i]});
  }
  Weight weight() { return {plain_form(dtype).value(), rows, cols, data()}; }
  Operand operand() { return {data(), dtype, rows, cols, cols}; }
};

/// Normal values times `scale`, exact in their dtype.
inline Values random_values(DType dtype, int64_t rows, int64_t cols, uint32_t seed, float scale = 1) {
  Values v{.dtype = dtype, .rows = rows, .cols = cols};
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  const auto count = static_cast<size_t>(rows * cols);
  if (dtype == DType::kF32)
    v.wide.resize(count);
  else
    v.narrow.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const float x = normal(generator) * scale;
    if (dtype == DType::kF32)
      v.wide[i] = x;
    else if (dtype == DType::kBf16)
      v.narrow[i] = to_bf16(x).bits;
    else
      v.narrow[i] = static_cast<uint16_t>(0x3000U | (generator() & 0x8fffU));  // +-[0.125, 2)
  }
  return v;
}

}  // namespace fulgur::test
