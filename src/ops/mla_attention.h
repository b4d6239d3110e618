#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "ops/mla_prepare.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

/// Absorbed attention over the selected positions (docs/spec/model.md, sections 3 and 5):
///
///   z[t,h,s] = scale * q[t,h] . entry_s       p = softmax over the selected s       u[t,h] = sum_s p c_s
///
/// Reads the selected entries only. The scores z, their maximum and the softmax sum are f32; p is an operand,
/// rounded once to q's dtype before it multiplies the latents. A NaN sets the sequence's fault bit.
struct SparseMla {
  Operand q;  // [num_tokens, h*(r+dr)]
  PagedLatents latents;
  const TokenBatch& batch;
  Matrix<const int32_t>
      selected;  // [num_tokens, topk] positions, ascending, -1 after the last; at least one each
  const MlaShape& shape;
  float scale;
  Operand u;  // out: [num_tokens, h*r], q's dtype
};
void run(Context&, const SparseMla&);

/// The same over all positions first_position <= s <= position[t].
struct DenseMla {
  Operand q;
  PagedLatents latents;
  const TokenBatch& batch;
  const MlaShape& shape;
  float scale;
  Operand u;
};
void run(Context&, const DenseMla&);

}  // namespace fulgur
