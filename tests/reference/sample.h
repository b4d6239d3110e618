#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "ops/sample.h"

namespace fulgur::reference {

/// The largest logit; of equal ones the lowest id. -1: a NaN, or the largest is infinite.
inline int32_t greedy_token(std::span<const float> logits) {
  if (std::ranges::any_of(logits, [](float logit) { return std::isnan(logit); })) return -1;
  const auto best = std::ranges::max_element(logits);  // the first of equals
  return std::isfinite(*best) ? static_cast<int32_t>(best - logits.begin()) : -1;
}

/// The probability of every token: softmax(logits / temperature), cut to the top_k likeliest, of these to the
/// smallest set of the likeliest that holds the share top_p, of these to those at least min_p times as likely
/// as the likeliest. Among equals the lower id is the likelier. temperature > 0.
inline std::vector<double> sampling_distribution(std::span<const float> logits,
                                                 const SamplingParams& params) {
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  std::vector<double> p(logits.size());
  for (const size_t i : order) p[i] = std::exp((double{logits[i]} - logits[order[0]]) / params.temperature);

  const auto mass = [&] {
    return std::accumulate(order.begin(), order.end(), 0.0, [&](double m, size_t i) { return m + p[i]; });
  };
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size())
    order.resize(static_cast<size_t>(params.top_k));
  const double wanted = params.top_p * mass();
  double held = 0;
  size_t count = 0;
  while (count < order.size() && (count == 0 || held < wanted)) held += p[order[count++]];
  if (params.top_p < 1) order.resize(count);
  std::erase_if(order, [&](size_t i) { return p[i] < double{params.min_p} * p[order[0]]; });

  const double total = mass();
  std::vector<double> distribution(logits.size(), 0.0);
  for (const size_t i : order) distribution[i] = p[i] / total;
  return distribution;
}

}  // namespace fulgur::reference
