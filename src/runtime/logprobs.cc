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

double logprobs_of(std::span<const float> logits, int32_t token, int num_likeliest,
                   std::vector<TokenLogprob>& likeliest) {
  const double total = log_sum_exp(logits);
  const auto of = [&](int32_t id) { return logits[static_cast<size_t>(id)] - total; };
  if (num_likeliest == 0) return of(token);
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min(std::ssize(ids), static_cast<std::ptrdiff_t>(num_likeliest));
  const std::span<const int32_t> top(ids.begin(), static_cast<size_t>(count));
  std::ranges::partial_sort(ids, ids.begin() + count, [&](int32_t a, int32_t b) {
    const float of_a = logits[static_cast<size_t>(a)];
    const float of_b = logits[static_cast<size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  for (const int32_t id : top) likeliest.push_back({id, of(id)});
  return of(token);
}

}  // namespace fulgur
