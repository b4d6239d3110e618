#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/moe.h"
#include "reference/ffn.h"
#include "reference/linear.h"
#include "reference/table.h"

namespace fulgur::reference {

/// The smallest distance between a score that was taken and one that was not.
struct Gap {
  double exact = std::numeric_limits<double>::infinity();
  double certain = exact;  // less what a kernel may be off: below 0, it may choose otherwise
};

/// One token's experts, ascending, and their weights a_e. `gap` is that of its choice scores and groups.
struct Routing {
  std::vector<int32_t> experts;
  std::vector<Real> weights;
  Gap gap;
};

/// Indices of the `count` largest values, the lower index first among equals, ascending; narrows `gap`.
inline std::vector<int32_t> largest(const std::vector<Real>& values, int count, Gap& gap) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  const auto value = [&](int32_t i) -> const Real& { return values[static_cast<size_t>(i)]; };
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return value(a).value > value(b).value; });
  for (int taken = 0; taken < count; ++taken) {
    for (size_t left = static_cast<size_t>(count); left < order.size(); ++left) {
      const Real& in = value(order[static_cast<size_t>(taken)]);
      const Real& out = value(order[left]);
      gap.exact = std::min(gap.exact, in.value - out.value);
      gap.certain = std::min(gap.certain, in.lower() - out.upper());
    }
  }
  order.resize(static_cast<size_t>(count));
  std::ranges::sort(order);
  return order;
}

inline Routing route(Row x, const Table& router, Row correction_bias, const MoeShape& shape) {
  const auto num_experts = static_cast<size_t>(router.rows);
  const size_t group_size = num_experts / static_cast<size_t>(shape.num_groups);
  std::vector<Real> score(num_experts);
  std::vector<Real> choice(num_experts);
  for (size_t e = 0; e < num_experts; ++e) {
    score[e] = sigmoid(dot(x, router.row(static_cast<int64_t>(e))));
    choice[e] = score[e] + correction_bias[e];
  }

  Routing routing;
  if (shape.num_groups > 1) {
    std::vector<Real> group_score;
    for (size_t first = 0; first < num_experts; first += group_size) {
      std::vector<Real> group(choice.begin() + static_cast<int64_t>(first),
                              choice.begin() + static_cast<int64_t>(first + group_size));
      std::ranges::sort(group, [](const Real& a, const Real& b) { return a.value > b.value; });
      const double error =
          std::ranges::max_element(group, {}, &Real::error)->error;  // whichever two are the largest
      group_score.push_back(Real(group[0].value, error) + Real(group[1].value, error));
    }
    const auto kept = largest(group_score, shape.groups_kept, routing.gap);
    for (size_t e = 0; e < num_experts; ++e) {
      if (!std::ranges::binary_search(kept, static_cast<int32_t>(e / group_size))) {
        choice[e] = -std::numeric_limits<double>::infinity();
      }
    }
  }
  routing.experts = largest(choice, shape.experts_per_token, routing.gap);
  for (const int32_t e : routing.experts)
    routing.weights.push_back(score[static_cast<size_t>(e)]);  // without the bias
  const Real total = sum(routing.weights) + Real(1e-20);
  for (Real& a : routing.weights) {
    if (shape.normalize) a = a / total;
    a = a * Real(shape.scaling);
  }
  return routing;
}

struct MoeTables {
  Table router;
  Table correction_bias;
  std::vector<FfnTables> experts;
  FfnTables shared;  // gate without rows: none
};

struct MoeResult {
  std::vector<Routing> routing;  // [T]
  Table delta;                   // [T, d]
};

/// y = sum_{e in top} a_e FFN_e(x) + FFN_shared(x).
inline MoeResult moe(const Table& x, const MoeTables& weights, const MoeShape& shape, DType dtype) {
  MoeResult result{{}, Table(x.rows, weights.experts.front().down.rows)};
  for (int64_t t = 0; t < x.rows; ++t) {
    const Table token = x.take_rows(t, 1);
    const Routing routing = route(x.row(t), weights.router, weights.correction_bias.row(0), shape);
    std::vector<Table> outputs;
    std::vector<Real> factors = routing.weights;
    for (const int32_t e : routing.experts) {
      outputs.push_back(ffn(token, weights.experts[static_cast<size_t>(e)], dtype));
    }
    if (weights.shared.gate.rows > 0) {
      outputs.push_back(ffn(token, weights.shared, dtype));
      factors.emplace_back(1);
    }
    std::vector<Real> terms(outputs.size());
    for (int64_t i = 0; i < result.delta.cols; ++i) {
      for (size_t e = 0; e < terms.size(); ++e) terms[e] = outputs[e].at(0, i);
      result.delta.at(t, i) = dot(factors, terms);
    }
    result.routing.push_back(routing);
  }
  return result;
}

inline MoeResult moe(const Moe& op) {
  MoeTables weights{values_of(op.weights.router), values_of(op.weights.correction_bias), {}, {}};
  for (const FfnWeights& expert : op.weights.experts) weights.experts.push_back(values_of(expert));
  if (op.weights.shared.gate.present()) weights.shared = values_of(op.weights.shared);
  return moe(values_of(op.x), weights, op.shape, op.x.dtype);
}

}  // namespace fulgur::reference
