#include "runtime/logprobs.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fulgur {
namespace {

/// ln of the sum of exp(logits).
double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return std::log(sum) + largest;
}

}  // namespace

double logprob_of(std::span<const float> logits, int32_t token) {
  return logits[static_cast<size_t>(token)] - log_sum_exp(logits);
}

std::vector<TokenLogprob> likeliest(std::span<const float> logits, int count) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<std::ptrdiff_t>(count, std::ssize(ids));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    const float of_a = logits[static_cast<size_t>(a)];
    const float of_b = logits[static_cast<size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  const double total = log_sum_exp(logits);
  std::vector<TokenLogprob> top;
  for (auto at = ids.begin(); at != end; ++at) top.push_back({*at, logits[static_cast<size_t>(*at)] - total});
  return top;
}

}  // namespace fulgur
