#pragma once

#include "ops/mla_prepare.h"
#include "reference/linear.h"
#include "reference/rms_norm.h"
#include "reference/rope.h"
#include "reference/table.h"

namespace fulgur::reference {

/// The eps of q_a_layernorm, kv_a_layernorm and the indexer's LayerNorm, whatever rms_norm_eps is
/// (docs/spec/model.md, 11.7).
constexpr double kLatentEps = 1e-6;

struct MlaPrepared {
  Table q_latent;  // [T, q]; no rows where q_lora_rank is null
  Table q;         // [T, h*(r+dr)]
  Table entries;   // [T, r+dr], what goes to the cache; of FP8 entries the latent before it is rounded
};

inline MlaPrepared mla_prepare(const MlaPrepare& op) {
  const MlaShape& shape = op.shape;
  const DType dtype = op.q.dtype;
  const Table x = values_of(op.x);
  const Table cos = values_of(op.rope.cos);
  const Table sin = values_of(op.rope.sin);
  const auto rope_width = static_cast<size_t>(shape.rope);
  MlaPrepared result;

  Table qr = x;
  if (op.weights.q_a.present()) {
    qr = linear(x, values_of(op.weights.q_a));
    qr = as_operand(rms_norm(qr, values_of(op.weights.q_a_norm).row(0), kLatentEps), dtype);
    result.q_latent = qr;
  }
  const Table projected = linear(qr, values_of(op.weights.q_b));  // [T, h*(dn+dr)]
  const Table uk = values_of(op.weights.uk);                      // [h*r, dn]
  result.q = Table(x.rows, int64_t{shape.num_heads} * (shape.kv_lora + shape.rope));
  for (int64_t t = 0; t < x.rows; ++t) {
    const int32_t position = op.batch.position[t];
    for (int64_t h = 0; h < shape.num_heads; ++h) {
      const auto head = projected.row(t).subspan(static_cast<size_t>(h * (shape.nope + shape.rope)));
      std::vector<Real> qn(head.begin(), head.begin() + shape.nope);
      for (Real& value : qn) value = as_operand(value, dtype);
      std::vector<Real> qp(head.begin() + shape.nope, head.begin() + shape.nope + shape.rope);
      rotate(qp, cos.row(position), sin.row(position), shape.rope_interleave);

      const int64_t first = h * (shape.kv_lora + shape.rope);
      for (int64_t i = 0; i < shape.kv_lora; ++i) {  // UK_h^T qn
        result.q.at(t, first + i) = as_operand(dot(uk.row(h * shape.kv_lora + i), qn), dtype);
      }
      for (int64_t i = 0; i < shape.rope; ++i) {
        result.q.at(t, first + shape.kv_lora + i) = as_operand(qp[static_cast<size_t>(i)], dtype);
      }
    }
  }

  const Table kv = linear(x, values_of(op.weights.kv_a));
  Table latent(x.rows, shape.kv_lora);
  for (int64_t t = 0; t < x.rows; ++t) std::copy_n(kv.row(t).begin(), shape.kv_lora, latent.row(t).begin());
  latent = rms_norm(latent, values_of(op.weights.kv_a_norm).row(0), kLatentEps);
  result.entries = kv;
  for (int64_t t = 0; t < x.rows; ++t) {
    std::ranges::copy(latent.row(t), result.entries.row(t).begin());
    const int32_t position = op.batch.position[t];
    rotate(result.entries.row(t).last(rope_width), cos.row(position), sin.row(position),
           shape.rope_interleave);
  }
  result.entries = as_operand(result.entries, op.latents.dtype);
  if (op.latents.dtype == DType::kF8E4M3) {
    for (int64_t t = 0; t < x.rows; ++t) {
      for (Real& value : result.entries.row(t).last(rope_width)) value = as_operand(value, DType::kBf16);
    }
  }
  return result;
}

}  // namespace fulgur::reference
