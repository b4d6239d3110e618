#include "runtime/logprobs.h"

#include <algorithm>
#include <cmath>
#include <ranges>

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
  const auto ids = std::views::iota(0, static_cast<int32_t>(logits.size()));
  std::vector<int32_t> top(std::min(logits.size(), static_cast<size_t>(num_likeliest)));
  std::ranges::partial_sort_copy(ids, top, [&](int32_t a, int32_t b) {
    const float of_a = logits[static_cast<size_t>(a)];
    const float of_b = logits[static_cast<size_t>(b)];
    return of_a != of_b ? of_a > of_b : a < b;
  });
  for (const int32_t id : top) likeliest.push_back({id, of(id)});
  return of(token);
}

}  // namespace fulgur
