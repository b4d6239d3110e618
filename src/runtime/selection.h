#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "model/step.h"

namespace fulgur {

// What may stand in for the indexer's choice (`--selection`, `--inject-topk`): to show what the indexer is
// worth, and to compare low-precision runs apart from their selections.

/// The index_topk most recent positions.
class RecentSelection : public SelectionSource {
 public:
  void select(int layer, const TokenBatch& batch, Context& context, Matrix<int32_t> selected) override;
};

/// index_topk positions drawn without replacement, keyed by (seed, layer, position): the same on every run
/// and chunking.
class RandomSelection : public SelectionSource {
 public:
  explicit RandomSelection(uint64_t seed) : seed_(seed) {}
  void select(int layer, const TokenBatch& batch, Context& context, Matrix<int32_t> selected) override;

 private:
  uint64_t seed_;
};

/// Every position.
class EverythingSelection : public SelectionSource {
 public:
  [[nodiscard]] bool everything() const override { return true; }
  void select(int, const TokenBatch&, Context&, Matrix<int32_t>) override {}
};

/// Given positions for the tokens of one prompt, more than index_topk where there are more.
class InjectedSelection : public SelectionSource {
 public:
  /// Replaces what is injected, by layer: row t holds the positions of token t, ascending, padded with -1.
  struct Rows {
    std::vector<int32_t> positions;  // [num_tokens, cols]
    int64_t cols = 0;
  };
  void set(std::map<int, Rows> by_layer) { by_layer_ = std::move(by_layer); }
  [[nodiscard]] int64_t width(int64_t index_topk) const override;
  void select(int layer, const TokenBatch& batch, Context& context, Matrix<int32_t> selected) override;

 private:
  std::map<int, Rows> by_layer_;
};

}  // namespace fulgur
