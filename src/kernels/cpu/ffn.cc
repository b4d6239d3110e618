// The dense gated FFN: gate and up tile by tile, gated while the tile is in cache, rounded once, then down. 6
// FLOPs a token for each of the width * hidden weights of a matrix.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/gated.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

void ffn(Context& context, const Ffn& op) {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const FfnWeights& w = op.weights;
  const int64_t tokens = op.x.rows;
  const int64_t width = w.gate.rows;
  const GatedInput x = allocate_gated_input(arena, tokens, op.x.dtype, w);
  const Operand gated = arena.operand(op.x.dtype, tokens, width);
  const PackedRows packed = allocate_packed(arena, tokens, width, op.x.dtype, w.down.form);
  const Operand delta{op.delta.data, DType::kF32, tokens, op.delta.cols, op.delta.stride};
  with_operand(op.x.dtype, [&](auto element) {
    using X = decltype(element);
    run_region(context, 3 * product_bytes(tokens, w.gate), [&](const Crew& crew) {
      const Share rows = crew.share(tokens);
      for (int64_t t = rows.begin; t < rows.end; ++t) pack_row(x, t, op.x.row<const X>(t));
      crew.barrier();
      const Part part = part_of(crew, tokens, width);
      multiply_gated(x, part.tokens, w, part.outputs, gated.row<X>(part.tokens.begin) + part.outputs.begin,
                     gated.stride);
      crew.barrier();
      pack_rows(packed, gated, rows);
      crew.barrier();
      multiply_part(crew, packed, tokens, w.down, delta);
    });
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
