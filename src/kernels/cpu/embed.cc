// Rows of the embedding table, widened to f32: memory bound, one pass.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

void embed(Context& context, const Embed& op) {
  with_element(op.table.form, [&](auto element) {
    const auto* table = static_cast<const decltype(element)*>(op.table.data);
    const int64_t hidden = op.table.cols;
    run_region(context, op.batch.num_tokens * hidden * 6, [&](const Crew& crew) {
      const Share tokens = crew.share(op.batch.num_tokens);
      for (int64_t t = tokens.begin; t < tokens.end; ++t) {
        const auto* from = table + op.batch.token[t] * hidden;
        float* to = op.hidden.row(t);
        for_each_vector(hidden, [&](int64_t i, auto n) { store(to + i, load(from + i, n), n); });
      }
    });
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
