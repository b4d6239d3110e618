#pragma once

#include <cstdint>

#include "base/matrix.h"

namespace fulgur {

/// Positions per cache page, in every pool of every layer.
constexpr int kPageTokens = 64;
constexpr int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

/// The tokens of one step: a flat batch from any number of sequences. The tokens of a sequence are
/// consecutive rows at consecutive, ascending positions, and every earlier position of the sequence is in the
/// caches already. All pointers are back-end memory. Apart from launch bounds (the plain integers) no op
/// depends on host values of the batch.
struct TokenBatch {
  int num_tokens = 0;
  int num_sequences = 0;
  int max_context = 0;     // no position of the batch is max_context or above
  int first_position = 0;  // attention begins there, and so does `position`; nothing is cached before; < 64
  const int32_t* token = nullptr;     // [num_tokens] ids
  const int32_t* position = nullptr;  // [num_tokens] in the sequence, from 0
  const int32_t* sequence = nullptr;  // [num_tokens] row of `pages`
  Matrix<const int32_t> pages;  // [num_sequences, max pages]: position s lies in page pages(sequence, s / 64)
  uint32_t* fault = nullptr;    // [num_sequences] out: kFault* bits, read once a step
};

/// A score, router logit or attention sum of this sequence was NaN.
constexpr uint32_t kFaultNan = 1;

/// cos and sin of every position's rotary angles, multiplied by yarn's attention factor (docs/spec/model.md,
/// section 2).
struct RopeTable {
  Matrix<const float> cos;  // [num_positions, dr / 2]
  Matrix<const float> sin;  // [num_positions, dr / 2]
};

}  // namespace fulgur
