#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "property/draw_model.h"
#include "property/run_model.h"
#include "reference/model.h"

namespace fulgur::property {

/// What the double reference makes of a prompt with given weights, and how far rounding carries an f32 engine
/// from it.
///
/// A dot product in f32 is the exact one of weights that are off by at most growth(n) each
/// (reference/tolerance.h); so are norms and scales. What that does to the logits at the end of a model, the
/// reference is asked too: twins of it have every weight off by so much at random. A bound of the worst case
/// (reference::Real) grows a thousandfold a layer and would let anything pass.
class Oracle {
 public:
  Oracle(const ModelDraw& draw, const std::map<std::string, reference::Table>& tables,
         std::span<const int32_t> tokens);

  /// A selection or route that rounding may honestly change, or logits that it changes so much that a
  /// comparison would say nothing.
  [[nodiscard]] bool is_close_call() const;
  /// Where a run in full precision isn't what it must be; empty: nowhere.
  [[nodiscard]] std::string difference(const EngineRun& run) const;

 private:
  [[nodiscard]] bool is_close_selection(size_t layer) const;
  [[nodiscard]] bool is_close_route(size_t layer) const;

  int64_t topk_;
  reference::Trace exact_;
  std::vector<reference::Trace> twins_;
};

}  // namespace fulgur::property
