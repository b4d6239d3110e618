#pragma once

// The selection and the index scores in double, from docs/spec/model.md, sections 4 and 5, alone.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace fulgur::cuda_test {

/// A(t): the topk positions of the largest scores, of equal ones the lower, ascending; empty where one is
/// NaN.
template <typename T>
std::vector<int32_t> best_positions(const std::vector<T>& scores, int topk) {
  for (const T score : scores) {
    if (std::isnan(score)) return {};
  }
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  if (static_cast<int>(scores.size()) <= topk) return order;
  const auto better = [&](int32_t a, int32_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;  // -0 equals 0
  };
  std::nth_element(order.begin(), order.begin() + topk, order.end(), better);
  order.resize(topk);
  std::sort(order.begin(), order.end());
  return order;
}

struct ReferenceScore {
  double score;
  double magnitude;  // scale * sum_h |w_h| sum_d |q_d k_d|: what rounding errors are measured against
};

/// sigma_k * sum_h w_h * max(0, q_h . k) of one key.
inline ReferenceScore reference_score(const std::vector<double>& q, const std::vector<double>& weights,
                                      const double* key, int dim, double scale) {
  ReferenceScore sum{0, 0};
  for (size_t h = 0; h < weights.size(); ++h) {
    double dot = 0;
    double magnitude = 0;
    for (int d = 0; d < dim; ++d) {
      const double product = q[h * dim + d] * key[d];
      dot += product;
      magnitude += std::abs(product);
    }
    sum.score += weights[h] * std::max(0.0, dot);
    sum.magnitude += std::abs(weights[h]) * magnitude;
  }
  return {sum.score * scale, sum.magnitude * scale};
}

}  // namespace fulgur::cuda_test
