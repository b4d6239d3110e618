#pragma once

#include "base/matrix.h"
#include "base/weight.h"
#include "kernels/cuda/stream.h"

namespace fulgur::cuda {

/// y[t, b, o] = sum_c x[t, b, c] W[b * outputs + o, c], for `batches` row ranges of one weight, each with its
/// own part of the rows of x and y (MLA's heads; mostly there is one).
struct Product {
  Operand x;  // rows are tokens; batch b begins at column b * x_batch
  Weight w;   // [batches * outputs, cols], any form
  Operand y;  // batch b begins at column b * y_batch; f32 or bf16, rounded once
  int64_t batches = 1;
  int64_t x_batch = 0;
  int64_t y_batch = 0;
  bool on_side = false;  // of the streams
};

/// For any shape, form and alignment: f32 sums in one order for a width, so a row's bits depend on that row
/// alone.
void multiply(const Stream& stream, const Product& product);

}  // namespace fulgur::cuda
