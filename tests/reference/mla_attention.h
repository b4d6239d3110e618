#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/mla_attention.h"
#include "reference/table.h"

namespace fulgur::reference {

/// u = sum_s p_s c_s with p = softmax_s(scale * q . entry_s), one head of one token; c_s is the first r of
/// entry_s.
///
/// A kernel may round p to bf16 before or after dividing by the sum, and relative to the largest score so far
/// or of all: so its rounding has no common scale and p is charged one unit of bf16. It may rescale its sums
/// at each page.
inline std::vector<Real> attend(Row q, const std::vector<std::vector<Real>>& entries, double scale,
                                int kv_lora, DType dtype) {
  std::vector<Real> p(entries.size());
  for (size_t s = 0; s < p.size(); ++s) p[s] = Real(scale) * dot(q, entries[s]);
  const double largest =
      std::ranges::max_element(p, {}, &Real::value)->value;  // softmax is the same for any shift
  const double rescalings = static_cast<double>(p.size()) / kPageTokens + 1;
  for (Real& x : p) x = rounded(exponential(x - Real(largest)), rescalings * (kElementaryUnits + 1));
  const Real total = sum(p);
  for (Real& x : p) {
    x = x / total;
    if (dtype == DType::kBf16) x.error += kBf16Unit * x.value;
  }

  std::vector<Real> u(static_cast<size_t>(kv_lora));
  std::vector<Real> column(entries.size());
  for (size_t i = 0; i < u.size(); ++i) {
    for (size_t s = 0; s < column.size(); ++s) column[s] = entries[s][i];
    u[i] = as_operand(dot(p, column), dtype);
  }
  return u;
}

/// Every token over the positions that `attended(t)` lists. Takes SparseMla or DenseMla.
template <typename Op, typename Attended>
Table attend_all(const Op& op, Attended attended) {
  const Table q = values_of(op.q);
  const auto width = static_cast<size_t>(op.latents.width);
  Table u(q.rows, op.u.cols);
  for (int64_t t = 0; t < q.rows; ++t) {
    std::vector<std::vector<Real>> entries;
    for (const int32_t s : attended(t)) entries.push_back(cached_latent(op.latents, op.batch, t, s));
    for (size_t h = 0; h < static_cast<size_t>(op.shape.num_heads); ++h) {
      const auto head =
          attend(q.row(t).subspan(h * width, width), entries, op.scale, op.shape.kv_lora, op.u.dtype);
      std::ranges::copy(head, u.row(t).begin() + static_cast<int64_t>(h) * op.shape.kv_lora);
    }
  }
  return u;
}

}  // namespace fulgur::reference
