#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace fulgur::reference {

/// A(t): the positions of the min(K, count) largest scores, larger score first, then the smaller position;
/// ascending. Empty if a score that has to be looked at is NaN. Takes float or double, so that it ranks a
/// kernel's own scores as well.
template <typename Score>
std::vector<int32_t> select_top(std::span<const Score> scores, int64_t topk) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  if (static_cast<int64_t>(scores.size()) <= topk) return order;
  if (std::ranges::any_of(scores, [](Score s) { return std::isnan(s); })) return {};
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(topk));
  std::ranges::sort(order);
  return order;
}

}  // namespace fulgur::reference
