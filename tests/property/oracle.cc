#include "property/oracle.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "reference/checkpoint.h"
#include "reference/tolerance.h"

namespace fulgur::property {
namespace {

using reference::Real;
using reference::Table;
using reference::Trace;

constexpr int kTwins = 2;
/// A gap closes from both sides.
constexpr double kGapMargin = 2;
/// Relative to the largest logit of a token. In 60 draws that were measured it was 1.7e-4 at most; a model
/// that amplifies rounding to more than this is asked for other values.
constexpr double kMostNoise = 1e-3;
/// A few roundings that are in no dot product: of exp, a reciprocal square root, a scale.
constexpr double kElementwise = 8 * reference::kF32Unit;

Trace trace_of(const ModelDraw& draw, const std::map<std::string, Table>& tables,
               std::span<const int32_t> tokens) {
  const reference::ModelConfig config = reference_config(draw);
  return reference::Model(config, tables_of(tables, static_cast<int>(draw.num_layers), config.indexer))
      .forward(tokens);
}

/// Every weight off by a random part of what rounding may amount to.
std::map<std::string, Table> perturbed(std::map<std::string, Table> tables, uint64_t seed) {
  for (auto& [name, table] : tables) {
    Numbers numbers(seed, name);
    const double most = reference::growth(table.cols) + kElementwise;
    for (Real& weight : table.data) weight.value *= 1 + most * (2 * numbers.uniform() - 1);
  }
  return tables;
}

double largest_in(const Table& table, int64_t row) {
  double largest = 0;
  for (const Real& x : table.row(row)) largest = std::max(largest, std::abs(x.value));
  return largest;
}

double largest_difference(const Table& a, const Table& b, int64_t row) {
  double largest = 0;
  for (int64_t i = 0; i < a.cols; ++i)
    largest = std::max(largest, std::abs(a.at(row, i).value - b.at(row, i).value));
  return largest;
}

/// `table_in` gives the table of a trace.
template <typename TableIn>
std::string compare(const std::string& what, const std::vector<float>& found, const Trace& exact,
                    const std::vector<Trace>& twins, TableIn table_in) {
  const Table& expected = table_in(exact);
  if (found.size() != expected.data.size()) return fmt::format("{}: {} values", what, found.size());
  for (int64_t t = 0; t < expected.rows; ++t) {
    double noise = 0;
    for (const Trace& twin : twins) noise = std::max(noise, largest_difference(expected, table_in(twin), t));
    for (int64_t i = 0; i < expected.cols; ++i) {
      const auto value = static_cast<double>(found[static_cast<size_t>(t * expected.cols + i)]);
      const double off = std::abs(value - expected.at(t, i).value);
      if (off <= noise) continue;  // a NaN isn't
      return fmt::format("{} [{}, {}] is {}, not {}: off by {:.3g}, {:.1f} times what rounding explains",
                         what, t, i, value, expected.at(t, i).value, off, off / noise);
    }
  }
  return "";
}

std::string compare(const std::string& what, const Choices& found, const Choices& expected) {
  if (found.size() != expected.size()) return fmt::format("{}: {} rows", what, found.size());
  for (size_t t = 0; t < found.size(); ++t) {
    if (found[t] != expected[t])
      return fmt::format("{} of token {} are {}, not {}", what, t, found[t], expected[t]);
  }
  return "";
}

Choices experts_of(const Trace& trace, size_t layer) {
  Choices experts;
  for (const reference::Routing& routing : trace.routing[layer]) experts.push_back(routing.experts);
  return experts;
}

}  // namespace

Oracle::Oracle(const ModelDraw& draw, const std::map<std::string, Table>& tables,
               std::span<const int32_t> tokens)
    : topk_(draw.index_topk), exact_(trace_of(draw, tables, tokens)) {
  for (int twin = 1; twin <= kTwins; ++twin)
    twins_.push_back(trace_of(draw, perturbed(tables, static_cast<uint64_t>(twin)), tokens));
}

bool Oracle::is_close_call() const {
  for (size_t layer = 0; layer < exact_.selected.size(); ++layer) {
    if (is_close_selection(layer) || is_close_route(layer)) return true;
  }
  for (const Trace& twin : twins_) {
    for (int64_t t = 0; t < exact_.logits.rows; ++t) {
      const double noise = largest_difference(exact_.logits, twin.logits, t);
      if (noise > kMostNoise * largest_in(exact_.logits, t)) return true;
    }
  }
  return false;
}

bool Oracle::is_close_selection(size_t layer) const {
  if (!exact_.index_scores[layer]) return false;
  const Table& scores = *exact_.index_scores[layer];
  double noise = 0;
  for (const Trace& twin : twins_) {
    if (twin.selected[layer] != exact_.selected[layer]) return true;
    for (int64_t t = 0; t < scores.rows; ++t)
      noise = std::max(noise, largest_difference(scores, *twin.index_scores[layer], t));
  }
  // Scores that every ReLU cut are 0 for whoever computes them, and such ties are no close call.
  const auto is_zero = [&](int64_t t, int64_t s) {
    return scores.at(t, s).value == 0 && std::ranges::all_of(twins_, [&](const Trace& twin) {
             return twin.index_scores[layer]->at(t, s).value == 0;
           });
  };
  for (int64_t t = topk_; t < scores.rows; ++t) {
    const std::vector<int32_t>& taken = exact_.selected[layer][static_cast<size_t>(t)];
    for (int64_t left = 0; left <= t; ++left) {
      if (std::ranges::binary_search(taken, static_cast<int32_t>(left))) continue;
      for (const int32_t in : taken) {
        const double gap = scores.at(t, in).value - scores.at(t, left).value;
        if (gap <= kGapMargin * noise && !(is_zero(t, in) && is_zero(t, left))) return true;
      }
    }
  }
  return false;
}

bool Oracle::is_close_route(size_t layer) const {
  const auto& routes = exact_.routing[layer];
  double noise = 0;
  double gap = HUGE_VAL;
  for (size_t t = 0; t < routes.size(); ++t) {
    if (!std::isfinite(routes[t].gap.exact)) continue;  // every expert is taken
    gap = std::min(gap, routes[t].gap.exact);
    for (const Trace& twin : twins_) {
      if (twin.routing[layer][t].experts != routes[t].experts) return true;
      noise = std::max(noise, std::abs(twin.routing[layer][t].gap.exact - routes[t].gap.exact));
    }
  }
  return gap <= kGapMargin * noise;
}

std::string Oracle::difference(const EngineRun& run) const {
  for (size_t layer = 0; layer < run.hidden.size(); ++layer) {
    const std::string of_layer = fmt::format(" of layer {}", layer);
    std::string found;
    if (exact_.index_scores[layer])
      found = compare("selected positions" + of_layer, run.selected[layer], exact_.selected[layer]);
    if (found.empty()) found = compare("experts" + of_layer, run.experts[layer], experts_of(exact_, layer));
    if (found.empty()) {
      found = compare("output" + of_layer, run.hidden[layer], exact_, twins_,
                      [&](const Trace& trace) -> const Table& { return trace.hidden[layer + 1]; });
    }
    if (!found.empty()) return found;
  }
  return compare("logits", run.logits, exact_, twins_,
                 [](const Trace& trace) -> const Table& { return trace.logits; });
}

}  // namespace fulgur::property
