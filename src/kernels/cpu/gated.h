#pragma once

// The first half of a gated FFN: silu(x W_gate^T) * (x W_up^T), for a rectangle of its outputs.

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// x packed for both matrices: once where one order serves both forms.
struct GatedInput {
  PackedRows gate;
  PackedRows up;
  [[nodiscard]] bool shared() const { return gate.data == up.data; }
};

inline GatedInput allocate_gated_input(Arena& arena, int64_t rows, DType x, const FfnWeights& w) {
  GatedInput input;
  input.gate = allocate_packed(arena, rows, w.gate.cols, x, w.gate.form);
  input.up = input.gate;
  if (order_for(x, w.up.form) != input.gate.order)
    input.up = allocate_packed(arena, rows, w.up.cols, x, w.up.form);
  return input;
}

template <typename X>
void pack_row(const GatedInput& input, int64_t row, const X* x) {
  pack_row(input.gate, row, x);
  if (!input.shared()) pack_row(input.up, row, x);
}

// A tile of both products, f32, in L1 and L2 until the gate is applied.
constexpr int64_t kGatedTokens = 48;
constexpr int64_t kGatedOutputs = 64;

/// gated = the rows `tokens` and columns `outputs` of the gated product; gated(0, 0) is their first element.
/// tokens.begin is a multiple of kTokenGrain.
template <typename Out>
void multiply_gated(const GatedInput& x, Share tokens, const FfnWeights& w, Share outputs, Out* gated,
                    int64_t stride) {
  float gate[kGatedTokens * kGatedOutputs];
  float up[kGatedTokens * kGatedOutputs];
  for (int64_t o = outputs.begin; o < outputs.end; o += kGatedOutputs) {
    const Share columns{o, std::min(outputs.end, o + kGatedOutputs)};
    for (int64_t t = tokens.begin; t < tokens.end; t += kGatedTokens) {
      const Share rows{t, std::min(tokens.end, t + kGatedTokens)};
      multiply(x.gate, rows, w.gate, columns, gate, kGatedOutputs);
      multiply(x.up, rows, w.up, columns, up, kGatedOutputs);
      for (int64_t r = 0; r < rows.end - t; ++r) {
        const float* g = gate + r * kGatedOutputs;
        const float* u = up + r * kGatedOutputs;
        Out* out = gated + (t - tokens.begin + r) * stride + (o - outputs.begin);
        for_each_vector(columns.end - o,
                        [&](int64_t i, auto n) { store(out + i, silu(load(g + i, n)) * load(u + i, n), n); });
      }
    }
  }
}

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
