#pragma once

#include <cstdint>
#include <random>

#include "support/split_mix.h"

namespace fulgur::test {

/// Inputs of a test, drawn from one printed seed. Most of a table's time would be the standard library's
/// normal distribution: eight uniform numbers are summed instead, which has its mean, its deviation and tails
/// to 4.9 deviations.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double normal(double deviation = 1) {
    double sum = 0;
    for (int i = 0; i < 4; ++i) {
      const uint64_t two = engine_();
      sum += static_cast<double>(static_cast<int64_t>((two >> 32) + (two & 0xffffffff)));
    }
    constexpr double kUnit = 0x1p-32;                           // of [0, 1), whose variance is 1/12
    return deviation * (sum * kUnit - 4) * 1.2247448713915890;  // sqrt(12 / 8)
  }
  /// lowest <= result <= highest.
  int64_t integer(int64_t lowest, int64_t highest) {
    return std::uniform_int_distribution<int64_t>(lowest, highest)(engine_);
  }
  SplitMix64& engine() { return engine_; }

 private:
  SplitMix64 engine_;
};

}  // namespace fulgur::test
