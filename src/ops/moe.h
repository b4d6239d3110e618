#pragma once

#include <cstdint>
#include <span>

#include "base/matrix.h"
#include "base/weight.h"
#include "ops/ffn.h"
#include "ops/token_batch.h"

namespace fulgur {

struct Context;

struct MoeWeights {
  Weight router;                        // W_g [E, hidden]
  Weight correction_bias;               // [1, E]
  std::span<const FfnWeights> experts;  // [E]
  FfnWeights shared;                    // width n_shared_experts * Im; absent (not present()) with none
};

struct MoeShape {
  int experts_per_token;  // k
  int num_groups;         // G
  int groups_kept;        // kG
  bool normalize;         // norm_topk_prob
  float scaling;          // routed_scaling_factor
};

/// Group-limited sigmoid routing with correction bias, the routed experts and the shared one
/// (docs/spec/model.md, section 7). The router's product is x and W_g in f32, sums f32. Equal choice scores:
/// the lower group or expert first. The experts' outputs are added in f32 in ascending order of expert, the
/// shared expert last, whatever else is in the batch. The gated products are operands. Works in tiles:
/// scratch does not grow with tokens times experts.
struct Moe {
  Operand x;  // [num_tokens, hidden]
  const MoeWeights& weights;
  const MoeShape& shape;
  const TokenBatch& batch;         // a NaN router logit sets the sequence's fault bit
  Matrix<float> delta;             // out: [num_tokens, hidden]
  Matrix<int32_t> chosen_experts;  // out, or data = null: [num_tokens, k], ascending
  Matrix<float> expert_weights;  // out, or data = null: [num_tokens, k], in the order of chosen_experts, with
                                 // the scaling
};
void run(Context&, const Moe&);

}  // namespace fulgur
