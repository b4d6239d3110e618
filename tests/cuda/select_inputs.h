#pragma once

// Inputs of the selection's GPU check and bench from a counter-based generator, so that the host's oracle
// makes any row again without a copy of the whole: e4m3 codes, scales, head weights, and scores of
// hard kinds.

#include <array>
#include <cmath>
#include <cstdint>
#include <iterator>

#include "base/counter_rng.h"

namespace fulgur::cuda_test {

enum class Codes {
  kReal,      // all signs and mantissas, eight binades
  kIntegers,  // -4 to 4: with power-of-two weights and scales every sum is exact
  kTies,      // -1, 0 or 1, mostly 0: few different scores
  kOnes,      // with head weights that sum to 1 over the products, so that a score is its key's scale
};

constexpr uint32_t word_at(uint64_t seed, uint64_t index) {
  const auto words =
      philox4x32({static_cast<uint32_t>(index / 4), static_cast<uint32_t>(index / 4 >> 32), 0x5e1ec7, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint32_t place = static_cast<uint32_t>(index % 4);
  return place == 0 ? words[0] : place == 1 ? words[1] : place == 2 ? words[2] : words[3];
}

/// The e4m3 code of component `index`.
constexpr uint8_t code_at(uint64_t seed, uint64_t index, Codes codes) {
  const uint32_t byte = word_at(seed, index / 4) >> (index % 4 * 8) & 0xFF;
  if (codes == Codes::kOnes) return 0x38;
  if (codes == Codes::kReal) return static_cast<uint8_t>((byte & 0x87) | ((3 + (byte >> 3 & 7)) << 3));
  // 1 is 0x38, 2 0x40, 3 0x44, 4 0x48.
  if (codes == Codes::kTies) return byte < 200 ? 0 : byte % 2 == 0 ? 0x38 : 0xB8;
  const uint32_t magnitude = byte % 5;
  const uint8_t code = magnitude == 0   ? 0
                       : magnitude == 1 ? 0x38
                       : magnitude == 2 ? 0x40
                       : magnitude == 3 ? 0x44
                                        : 0x48;
  return static_cast<uint8_t>(code | (magnitude != 0 && byte >= 128 ? 0x80 : 0));
}
constexpr double e4m3_value(uint8_t code) {
  const int exponent = code >> 3 & 15;
  const int mantissa = code & 7;
  double value = exponent == 0 ? mantissa / 8.0 : 1 + mantissa / 8.0;
  for (int e = exponent == 0 ? 1 : exponent; e < 7; ++e) value /= 2;
  for (int e = exponent; e > 7; --e) value *= 2;
  return (code & 0x80) != 0 ? -value : value;
}
/// A key's scale: a power of two, or for real codes any number near 1/64. Of kOnes others are put there.
constexpr float scale_at(uint64_t seed, uint64_t index, Codes codes) {
  const uint32_t word = word_at(seed, index);
  if (codes == Codes::kOnes) return 1;
  if (codes == Codes::kTies) return 0.25F;
  if (codes == Codes::kIntegers) return word % 3 == 0 ? 0.125F : word % 3 == 1 ? 0.25F : 0.5F;
  return static_cast<float>(word % 4096 + 2048) / 262144.0F;
}
/// The weight of one of `heads` heads, signed: quarters, or for real codes any number.
constexpr float weight_at(uint64_t seed, uint64_t index, Codes codes, int heads) {
  constexpr int kProducts = 128;
  if (codes == Codes::kOnes) return 1.0F / static_cast<float>(heads * kProducts);
  const uint32_t word = word_at(seed, index);
  if (codes == Codes::kReal) return (static_cast<float>(word % 65536) - 24000.0F) / 65536.0F;
  return (static_cast<float>(word % 9) - 4.0F) / 4.0F;
}

enum class Scores {
  kNormal,
  kConcentrated,  // 10 + 0.05 n
  kTies,
  kZeros,
  kAscending,
  kDescending,
  kInfinities,
  kFew,
  kTiny,
  kNeighbours,  // two values that no float lies between
  kRun,         // the k-th of 2,048 in a run of 1,900 positions that share their first bits
  kNan
};
constexpr const char* kScoreNames[] = {"normal",    "10+0.05n",   "ties",       "zeros",
                                       "ascending", "descending", "infinities", "few values",
                                       "tiny",      "neighbours", "run",        "NaN"};
constexpr int kScoreKinds = std::size(kScoreNames);
constexpr const char* name_of(Scores kind) { return kScoreNames[static_cast<int>(kind)]; }

/// The score of position s of `length`: what a kernel is given.
inline float score_at(uint64_t seed, uint64_t index, int64_t s, int64_t length, Scores kind) {
  const uint32_t word = word_at(seed, index);
  const double u = (static_cast<double>(word >> 8) + 0.5) / 16777216.0;
  const double v = static_cast<double>(word_at(seed ^ 0x9e3779b97f4a7c15ULL, index)) / 4294967296.0;
  const double normal = std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  switch (kind) {
    case Scores::kNormal:
      return static_cast<float>(normal);
    case Scores::kConcentrated:
      return static_cast<float>(10 + 0.05 * normal);
    case Scores::kTies:
      return 3.25F;
    case Scores::kZeros:
      return word % 2 == 0 ? 0.0F : -0.0F;
    case Scores::kAscending:
      return static_cast<float>(s) * 0.37F - 1000.0F;
    case Scores::kDescending:
      return static_cast<float>(length - s) * 1e-3F;
    case Scores::kInfinities:
      return word % 5 == 0 ? INFINITY : word % 5 == 1 ? -INFINITY : static_cast<float>(normal);
    case Scores::kFew:
      return static_cast<float>(word % 3) - 1.0F;
    case Scores::kTiny:
      return static_cast<float>(word % 4096) * 1.4e-45F - 2.8e-42F;
    case Scores::kNeighbours:
      return word % 2 == 0 ? 1.0F : 1.0F + 0x1p-23F;
    case Scores::kRun: {
      constexpr int64_t kAbove = 400;  // spread over all positions
      constexpr int64_t kInside = 1900;
      if (s % (length / kAbove + 1) == 0) return static_cast<float>(20 + u);
      const bool inside = s >= length / 3 && s < length / 3 + kInside;
      return static_cast<float>(inside ? 8 + u : normal);
    }
    case Scores::kNan:
      return s == length / 2 ? NAN : static_cast<float>(normal);
  }
  return 0;
}

}  // namespace fulgur::cuda_test
