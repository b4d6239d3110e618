// y = x W^T and the head's product: gemm.h's kernel on packed activations. 2 FLOPs a weight and token; from
// memory each weight is read once a step and member.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

void linear(Context& context, const Linear& op) {
  const ArenaScope scope(*context.arena);
  const PackedRows x = allocate_packed(*context.arena, op.x.rows, op.x.cols, op.x.dtype, op.w.form);
  run_region(context, product_bytes(op.x.rows, op.w), [&](const Crew& crew) {
    pack_rows(x, op.x, crew.share(op.x.rows));
    crew.barrier();
    multiply_part(crew, x, op.x.rows, op.w, op.y);
  });
}

void lm_head(Context& context, const LmHead& op) {
  const ArenaScope scope(*context.arena);
  const int64_t rows = op.logits.rows;
  const PackedRows x = allocate_packed(*context.arena, rows, op.hidden.cols, op.hidden.dtype, op.w.form);
  run_region(context, product_bytes(rows, op.w), [&](const Crew& crew) {
    with_operand(op.hidden.dtype, [&](auto element) {
      const Share share = crew.share(rows);
      for (int64_t i = share.begin; i < share.end; ++i) {
        pack_row(x, i, op.hidden.row<const decltype(element)>(op.rows[i]));
      }
    });
    crew.barrier();
    multiply_part(crew, x, rows, op.w, {op.logits.data, DType::kF32, rows, op.logits.cols, op.logits.stride});
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
