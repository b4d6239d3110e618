#pragma once

#include <cstdint>
#include <random>

namespace fulgur::test {

/// Inputs of a test, drawn from one printed seed.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  double normal(double deviation = 1) { return deviation * normal_(engine_); }
  /// lowest <= result <= highest.
  int64_t integer(int64_t lowest, int64_t highest) {
    return std::uniform_int_distribution<int64_t>(lowest, highest)(engine_);
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

}  // namespace fulgur::test
