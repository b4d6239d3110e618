#include "kernels/cpu/draw.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "base/counter_rng.h"

namespace fulgur::cpu {
namespace {

double total_of(std::span<const float> weights) {
  return std::accumulate(weights.begin(), weights.end(), 0.0);
}

/// Puts the `count` likeliest ids in front of `order`, which holds them all, likeliest first.
void sort_front(std::span<const float> weights, std::span<int32_t> order, size_t count) {
  const auto likelier = [weights](int32_t a, int32_t b) {
    const float wa = weights[static_cast<size_t>(a)];
    const float wb = weights[static_cast<size_t>(b)];
    return wa > wb || (wa == wb && a < b);
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), likelier);
}

void drop(std::span<float> weights, std::span<const int32_t> ids) {
  for (const int32_t id : ids) weights[static_cast<size_t>(id)] = 0;
}

void keep_top_k(std::span<float> weights, std::span<int32_t> order, size_t k) {
  sort_front(weights, order, k);
  drop(weights, order.subspan(k));
}

/// Sorts ever longer fronts until one holds the mass: most distributions have it in a few ids.
void keep_top_p(std::span<float> weights, std::span<int32_t> order, double top_p) {
  constexpr size_t kFirstFront = 64;
  constexpr size_t kGrowth = 8;
  const double wanted = top_p * total_of(weights);
  for (size_t front = std::min(kFirstFront, order.size());; front = std::min(front * kGrowth, order.size())) {
    sort_front(weights, order, front);
    double mass = 0;
    for (size_t i = 0; i < front; ++i) {
      mass += weights[static_cast<size_t>(order[i])];
      if (mass >= wanted) return drop(weights, order.subspan(i + 1));
    }
    if (front == order.size()) return;  // the mass of all falls short of itself by a rounding
  }
}

}  // namespace

int32_t draw(std::span<float> weights, const SamplingParams& params, int32_t position,
             std::span<int32_t> order) {
  std::iota(order.begin(), order.end(), 0);
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < weights.size()) {
    keep_top_k(weights, order, static_cast<size_t>(params.top_k));
  }
  if (params.top_p < 1) keep_top_p(weights, order, params.top_p);
  for (float& weight : weights) {
    if (weight < params.min_p) weight = 0;
  }
  const double target = uniform_at(params.seed, static_cast<uint32_t>(position)) * total_of(weights);
  double sum = 0;
  int32_t last = -1;
  for (size_t id = 0; id < weights.size(); ++id) {
    if (weights[id] == 0) continue;
    sum += weights[id];
    last = static_cast<int32_t>(id);
    if (sum > target) break;
  }
  return last;
}

}  // namespace fulgur::cpu
