#pragma once

#include <cstdint>
#include <span>

#include "base/matrix.h"
#include "ops/context.h"
#include "ops/indexer_prepare.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"

namespace fulgur {

/// The residual stream: an f32 sum and the contribution of the last block, which the next norm folds in.
struct Residual {
  Matrix<float> sum;     // [num_tokens, hidden]
  Matrix<float> delta;   // [num_tokens, hidden]
  bool pending = false;  // delta isn't in sum yet
};

/// Sees what a step computes on its way, for dumps and experiments. All matrices are back-end memory, valid
/// during the call.
class StepObserver {
 public:
  StepObserver() = default;
  virtual ~StepObserver() = default;
  StepObserver(const StepObserver&) = delete;
  StepObserver& operator=(const StepObserver&) = delete;

  [[nodiscard]] virtual bool wants_scores() const { return false; }
  [[nodiscard]] virtual bool wants_router() const { return false; }
  /// The stream after a layer is sum + delta.
  virtual void hidden(int /*layer*/, const Residual& /*residual*/) {}
  virtual void scores(int /*layer*/, Matrix<const float> /*scores*/) {}
  virtual void selected(int /*layer*/, Matrix<const int32_t> /*selected*/) {}
  virtual void router(int /*layer*/, Matrix<const int32_t> /*experts*/, Matrix<const float> /*weights*/) {}
  /// The main model's logits from which tokens are drawn, in the order of the batch, some rows at a time.
  virtual void drawn_from(Matrix<const float> /*logits*/) {}
  /// Whether the MTP layer's logits are wanted of all pairs: then mtp_logits gets them in the order of the
  /// batch, some rows at a time.
  [[nodiscard]] virtual bool wants_mtp_logits() const { return false; }
  virtual void mtp_logits(Matrix<const float> /*logits*/) {}
};

/// Replaces the indexer's choice, for experiments.
class SelectionSource {
 public:
  SelectionSource() = default;
  virtual ~SelectionSource() = default;
  SelectionSource(const SelectionSource&) = delete;
  SelectionSource& operator=(const SelectionSource&) = delete;

  /// Every position: the layer runs dense attention.
  [[nodiscard]] virtual bool everything() const { return false; }
  /// Columns of `selected` that it may fill, at least index_topk.
  [[nodiscard]] virtual int64_t width(int64_t index_topk) const { return index_topk; }
  /// Overwrites rows of `selected` (back-end memory; holds the indexer's choice), as IndexerSelect would
  /// leave them.
  virtual void select(int layer, const TokenBatch& batch, Context& context, Matrix<int32_t> selected) = 0;
};

/// One layer's pools. `keys` is empty in layers without an indexer of their own.
struct LayerCache {
  PagedLatents latents;
  PagedKeys keys;
};

/// One batch on its way through the layers.
struct Step {
  Context& context;
  const TokenBatch& batch;
  const RopeTable& rope;
  std::span<const LayerCache> caches;  // one a layer
  DType operand_dtype = DType::kBf16;
  IndexerProjection projection = IndexerProjection::kFused;
  SelectionSource* selection = nullptr;  // null: the indexer's own
  StepObserver* observer = nullptr;      // null: nobody looks
  /// Of the last layer that owns an indexer: [num_tokens, min(index_topk or the source's width,
  /// max_context)].
  Matrix<int32_t> selected = {};
};

}  // namespace fulgur
