// RMSNorm, with and without folding the pending delta into the residual: two passes over a row that the first
// left in L1. Memory bound: 8 to 12 bytes of f32 an element, 3 FLOPs.

#include "kernels/cpu/entries.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

void rms_norm(Context& context, const RmsNorm& op) {
  with_element(op.gain.form, [&](auto gain_element) {
    with_operand(op.out.dtype, [&](auto out_element) {
      using Gain = decltype(gain_element);
      using Out = decltype(out_element);
      const auto* gain = static_cast<const Gain*>(op.gain.data);
      run_region(context, op.x.rows * op.x.cols * 8, [&](const Crew& crew) {
        const Share rows = crew.share(op.x.rows);
        for (int64_t t = rows.begin; t < rows.end; ++t) {
          rms_row(op.x.row(t), op.x.cols, gain, op.eps, op.out.row<Out>(t));
        }
      });
    });
  });
}

void add_rms_norm(Context& context, const AddRmsNorm& op) {
  with_element(op.gain.form, [&](auto gain_element) {
    with_operand(op.out.dtype, [&](auto out_element) {
      using Gain = decltype(gain_element);
      using Out = decltype(out_element);
      const auto* gain = static_cast<const Gain*>(op.gain.data);
      run_region(context, op.sum.rows * op.sum.cols * 16, [&](const Crew& crew) {
        const Share rows = crew.share(op.sum.rows);
        for (int64_t t = rows.begin; t < rows.end; ++t) {
          float* sum = op.sum.row(t);
          const float* delta = op.delta.row(t);
          for_each_vector(op.sum.cols, [&](int64_t i, auto n) {
            store(sum + i, load(sum + i, n) + load(delta + i, n), n);
          });
          rms_row(sum, op.sum.cols, gain, op.eps, op.out.row<Out>(t));
        }
      });
    });
  });
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
