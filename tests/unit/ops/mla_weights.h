#pragma once

#include "ops/indexer_prepare.h"
#include "ops/mla_prepare.h"
#include "reference/rope.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {

inline MlaShape mla_shape(const Dims& dims) {
  return {.num_heads = dims.heads,
          .kv_lora = dims.kv_lora,
          .nope = dims.nope,
          .rope = dims.rope,
          .value = dims.value,
          .rope_interleave = dims.rope_interleave};
}

inline IndexerShape indexer_shape(const Dims& dims) {
  return {.num_heads = dims.index_heads,
          .head_dim = dims.index_dim,
          .rope = dims.rope,
          .rope_interleave = dims.index_interleave};
}

/// A rotary table over the positions of a batch.
class RopeBuffers {
 public:
  RopeBuffers(Machine& machine, const Dims& dims, int num_positions)
      : cos_(machine.add(DType::kF32, num_positions, dims.rope / 2)),
        sin_(machine.add(DType::kF32, num_positions, dims.rope / 2)) {
    const auto angles = reference::rope_angles({.theta = 10000, .width = dims.rope}, num_positions);
    cos_.fill([&](int64_t t, int64_t j) { return angles.cos.at(t, j).value; });
    sin_.fill([&](int64_t t, int64_t j) { return angles.sin.at(t, j).value; });
  }
  [[nodiscard]] RopeTable table(Side side) const {
    return {cos_.matrix<const float>(side), sin_.matrix<const float>(side)};
  }

 private:
  Buffer& cos_;
  Buffer& sin_;
};

class MlaWeightBuffers {
 public:
  MlaWeightBuffers(Machine& machine, Random& random, const Dims& dims, WeightForm form)
      : has_q_lora_(dims.q_lora > 0),
        q_a_(machine.add_weight(random, form, std::max(dims.q_lora, 1), dims.hidden)),
        q_a_norm_(machine.add_gain(random, form, std::max(dims.q_lora, 1))),
        q_b_(machine.add_weight(random, form, int64_t{dims.heads} * (dims.nope + dims.rope),
                                has_q_lora_ ? dims.q_lora : dims.hidden)),
        kv_a_(machine.add_weight(random, form, dims.kv_lora + dims.rope, dims.hidden)),
        kv_a_norm_(machine.add_gain(random, form, dims.kv_lora)),
        uk_(machine.add_weight(random, form, int64_t{dims.heads} * dims.kv_lora, dims.nope)),
        uv_(machine.add_weight(random, form, int64_t{dims.heads} * dims.value, dims.kv_lora)),
        o_(machine.add_weight(random, form, dims.hidden, int64_t{dims.heads} * dims.value)) {}

  [[nodiscard]] MlaWeights weights(Side side) const {
    MlaWeights w{.q_b = q_b_.weight(side),
                 .kv_a = kv_a_.weight(side),
                 .kv_a_norm = kv_a_norm_.weight(side),
                 .uk = uk_.weight(side),
                 .uv = uv_.weight(side),
                 .o = o_.weight(side)};
    if (has_q_lora_) {
      w.q_a = q_a_.weight(side);
      w.q_a_norm = q_a_norm_.weight(side);
    }
    return w;
  }

 private:
  bool has_q_lora_;
  WeightBuffer& q_a_;
  Buffer& q_a_norm_;
  WeightBuffer& q_b_;
  WeightBuffer& kv_a_;
  Buffer& kv_a_norm_;
  WeightBuffer& uk_;
  WeightBuffer& uv_;
  WeightBuffer& o_;
};

/// A form, and whether it lies aligned to 64 bytes.
struct MatrixKind {
  WeightForm form;
  bool aligned = false;
};

class IndexerWeightBuffers {
 public:
  IndexerWeightBuffers(Machine& machine, Random& random, const Dims& dims, MatrixKind wk_weights_proj,
                       MatrixKind wq_b)
      : wk_weights_proj_(machine.add_weight(random, wk_weights_proj.form, dims.index_dim + dims.index_heads,
                                            dims.hidden, wk_weights_proj.aligned)),
        k_norm_gain_(machine.add_gain(random, wk_weights_proj.form, dims.index_dim)),
        k_norm_bias_(machine.add(stored_dtype(plain_beside(wk_weights_proj.form)), 1, dims.index_dim)
                         .fill_normal(random, 0.5)),
        wq_b_(machine.add_weight(random, wq_b.form, int64_t{dims.index_heads} * dims.index_dim, dims.q_lora,
                                 wq_b.aligned)) {}

  [[nodiscard]] IndexerWeights weights(Side side) const {
    return {wk_weights_proj_.weight(side), k_norm_gain_.weight(side), k_norm_bias_.weight(side),
            wq_b_.weight(side)};
  }

 private:
  WeightBuffer& wk_weights_proj_;
  Buffer& k_norm_gain_;
  Buffer& k_norm_bias_;
  WeightBuffer& wq_b_;
};

}  // namespace fulgur::test
