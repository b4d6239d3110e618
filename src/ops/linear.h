#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "base/weight.h"

namespace fulgur {

struct Context;

/// y = x W^T, accumulated in f32. Each element of y has one sequence of roundings for a weight's shape and
/// form, an instruction set and x's dtype: it does not depend on the number of rows of x or on the threads.
struct Linear {
  Operand x;  // [num_tokens, cols]
  Weight w;   // [rows, cols]
  Operand y;  // out: [num_tokens, rows], f32, or bf16 rounded once; no overlap with x
};
void run(Context&, const Linear&);

/// logits = F W_head^T for the rows that are wanted only (docs/spec/model.md, sections 1 and 8).
struct LmHead {
  Operand hidden;        // F: [num_tokens, hidden]
  const int32_t* rows;   // [logits.rows] which rows of F, any order
  Weight w;              // [vocab, hidden]
  Matrix<float> logits;  // out: [wanted rows, vocab]
};
void run(Context&, const LmHead&);

}  // namespace fulgur
