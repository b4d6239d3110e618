// Both halves of the MTP module's input, a row of the embedding table and one of F normed side by side:
// memory bound, each is widened to f32 once and normed from L1. 4 to 8 bytes an element read, 3 FLOPs.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {
namespace {

/// out = RMS(x; gain, eps) by way of `widened`, [size] f32.
template <typename In, typename Out>
void norm_row(const In* x, int64_t size, const Weight& gain, float eps, float* widened, Out* out) {
  for_each_vector(size, [&](int64_t i, auto n) { store(widened + i, load(x + i, n), n); });
  with_element(gain.form, [&](auto element) {
    rms_row(widened, size, static_cast<const decltype(element)*>(gain.data), eps, out);
  });
}

}  // namespace

void mtp_input(Context& context, const MtpInput& op) {
  const ArenaScope scope(*context.arena);
  const int64_t size = op.table.cols;
  const int64_t members = std::min<int64_t>(context.team->size(), op.pair.rows);  // that get a row
  const Matrix<float> widened_of_all = context.arena->matrix<float>(members, size);
  run_region(context, op.pair.rows * size * 16, [&](const Crew& crew) {
    for (int64_t t = crew.member; t < op.pair.rows; t += crew.size) {
      float* const widened = widened_of_all.row(crew.member);
      with_operand(op.pair.dtype, [&](auto out_element) {
        auto* out = op.pair.row<decltype(out_element)>(t);
        with_element(op.table.form, [&](auto element) {
          const auto* row = static_cast<const decltype(element)*>(op.table.data) + op.batch.token[t] * size;
          norm_row(row, size, op.enorm, op.eps, widened, out);
        });
        with_operand(op.hidden.dtype, [&](auto element) {
          const auto* row = op.hidden.row<decltype(element)>(op.rows[t]);
          norm_row(row, size, op.hnorm, op.eps, widened, out + size);
        });
      });
    }
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
