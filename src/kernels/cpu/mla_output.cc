// UV head by head, each a product of its own columns of u, then o_proj. 2 h r dv + 2 h dv d FLOPs a token.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

void mla_output(Context& context, const MlaOutput& op) {
  const ArenaScope scope(*context.arena);
  Arena& arena = *context.arena;
  const MlaWeights& w = op.weights;
  const int64_t tokens = op.u.rows;
  const int64_t heads = op.shape.num_heads;
  const int64_t r = op.shape.kv_lora;
  const int64_t dv = op.shape.value;
  const int64_t head_rows = round_to_grain(tokens);  // each head's u is packed as rows of its own
  const PackedRows u = allocate_packed(arena, heads * head_rows, r, op.u.dtype, w.uv.form);
  const Operand values = arena.operand(op.u.dtype, tokens, heads * dv);
  const PackedRows packed = allocate_packed(arena, tokens, heads * dv, op.u.dtype, w.o.form);
  const Operand delta{op.delta.data, DType::kF32, tokens, op.delta.cols, op.delta.stride};
  with_operand(op.u.dtype, [&](auto element) {
    using X = decltype(element);
    run_region(context, product_bytes(tokens, w.uv) + product_bytes(tokens, w.o), [&](const Crew& crew) {
      const Share rows = crew.share(tokens);
      for (int64_t head = 0; head < heads; ++head) {
        for (int64_t t = rows.begin; t < rows.end; ++t) {
          pack_row(u, head * head_rows + t, op.u.row<const X>(t) + head * r);
        }
      }
      crew.barrier();
      const Part part = part_of(crew, tokens, heads * dv);
      for (int64_t o = part.outputs.begin; o < part.outputs.end;) {
        const int64_t head = o / dv;
        const int64_t end = std::min(part.outputs.end, (head + 1) * dv);
        multiply(u, {head * head_rows + part.tokens.begin, head * head_rows + part.tokens.end}, w.uv,
                 {o, end}, values.row<X>(part.tokens.begin) + o, values.stride);
        o = end;
      }
      crew.barrier();
      pack_rows(packed, values, rows);
      crew.barrier();
      multiply_part(crew, packed, tokens, w.o, delta);
    });
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
