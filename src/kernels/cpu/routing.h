#pragma once

// The router's choice for one token, from its logits (docs/spec/model.md, section 7).

#include "kernels/cpu/kernel.h"
#include "kernels/cpu/rows.h"

namespace fulgur::cpu::FULGUR_CPU_ISA {

/// Scratch and constants of routing: one for each member.
struct Router {
  const MoeShape& shape;
  int64_t num_experts;
  const float* bias;    // [num_experts]
  float* scores;        // scratch [num_experts]: sigmoid of the logits
  float* choice;        // scratch [num_experts]: with the bias; -infinity once out of the running
  float* group_scores;  // scratch [num_groups]

  /// The index of the largest of `size` values, of equal ones the lowest.
  static int64_t largest(const float* values, int64_t size) {
    int64_t best = 0;
    for (int64_t i = 1; i < size; ++i) {
      if (values[i] > values[best]) best = i;
    }
    return best;
  }

  void drop_groups() const {
    const int64_t width = num_experts / shape.num_groups;
    for (int64_t g = 0; g < shape.num_groups; ++g) {
      const float* group = choice + g * width;
      float first = -std::numeric_limits<float>::infinity();
      float second = first;
      for (int64_t i = 0; i < width; ++i) {
        if (group[i] > first)
          second = std::exchange(first, group[i]);
        else if (group[i] > second)
          second = group[i];
      }
      group_scores[g] = first + second;
    }
    // The kept groups are marked by a NaN, which `largest` never takes again.
    for (int kept = 0; kept < shape.groups_kept; ++kept) {
      int64_t best = -1;
      for (int64_t g = 0; g < shape.num_groups; ++g) {
        if (!std::isnan(group_scores[g]) && (best < 0 || group_scores[g] > group_scores[best])) best = g;
      }
      group_scores[best] = std::numeric_limits<float>::quiet_NaN();
    }
    for (int64_t g = 0; g < shape.num_groups; ++g) {
      if (std::isnan(group_scores[g])) continue;
      std::fill_n(choice + g * width, width, -std::numeric_limits<float>::infinity());
    }
  }

  /// The chosen experts, ascending, and their weights; false, and nothing chosen, where a logit is NaN.
  bool choose(const float* logits, int32_t* experts, float* weights) const {
    uint32_t nan = 0;
    for_each_vector(num_experts, [&](int64_t i, auto n) {
      const Vec score = sigmoid(load(logits + i, n));
      const Vec with_bias = score + load(bias + i, n);
      nan |= bits(is_nan(with_bias));
      store(scores + i, score, n);
      store(choice + i, with_bias, n);
    });
    if (nan != 0) return false;
    if (shape.groups_kept < shape.num_groups) drop_groups();
    float total = 0;
    for (int j = 0; j < shape.experts_per_token; ++j) {
      const int64_t best = largest(choice, num_experts);
      choice[best] = -std::numeric_limits<float>::infinity();
      experts[j] = static_cast<int32_t>(best);
    }
    std::sort(experts, experts + shape.experts_per_token);
    for (int j = 0; j < shape.experts_per_token; ++j) {
      weights[j] = scores[experts[j]];
      total += weights[j];
    }
    for (int j = 0; j < shape.experts_per_token; ++j) {
      if (shape.normalize) weights[j] /= total + 1e-20F;
      weights[j] *= shape.scaling;
    }
    return true;
  }
};

}  // namespace fulgur::cpu::FULGUR_CPU_ISA
