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
  double magnitude;  // scale * sum_h |w_h| sum_d |q_d k_d|
  double squares;    // scale^2 * sum_h (w_h L_h)^2, L_h the largest that a partial sum of head h can be

  /// How far an FP8 score may be from it. A step of 32 products and what was summed before keeps 14 bits of
  /// the largest of these 33: it cuts each, towards zero, by less than 2^-13 L_h. So dim / 32 steps make 33
  /// dim / 32 errors a head, each of a sign of its own. By Hoeffding's inequality their sum exceeds sqrt(ln(2
  /// / p) / 2 * sum of squares of their ranges) with a probability of at most p; p = 1e-15 leaves no false
  /// alarm in a million scores. The f32 sum over heads, some 70 roundings of 2^-24, is no more than 2^-17 of
  /// the magnitudes.
  [[nodiscard]] double limit(int dim) const {
    const double errors = 33.0 * dim / 32;
    return 0x1p-13 * std::sqrt(std::log(2e15) / 2 * errors * squares) + 0x1p-17 * magnitude;
  }
};

/// sigma_k * sum_h w_h * max(0, q_h . k) of one key.
inline ReferenceScore reference_score(const std::vector<double>& q, const std::vector<double>& weights,
                                      const double* key, int dim, double scale) {
  ReferenceScore sum{0, 0, 0};
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
    // All products of one sign, and none of the other.
    const double largest = (magnitude + std::abs(dot)) / 2;
    sum.squares += weights[h] * weights[h] * largest * largest;
  }
  return {sum.score * scale, sum.magnitude * scale, sum.squares * scale * scale};
}

}  // namespace fulgur::cuda_test
