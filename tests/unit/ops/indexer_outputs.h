#pragma once

#include <cstdint>
#include <vector>

#include "ops/indexer_prepare.h"
#include "reference/indexer_prepare.h"
#include "unit/ops/batch.h"
#include "unit/ops/machine.h"

namespace fulgur::test {

/// What IndexerPrepare writes for a batch, with keys of any form.
class IndexerOutputs {
 public:
  IndexerOutputs(Machine& machine, const Batch& batch, const IndexerShape& shape, DType keys);

  [[nodiscard]] Operand q(Side side, int first, int count) const { return q_.operand(side, first, count); }
  [[nodiscard]] Matrix<float> head_weights(Side side, int first, int count) const {
    return head_weights_.matrix<float>(side, first, count);
  }
  [[nodiscard]] PagedKeys keys(Side side) const { return pool_.keys(side); }

  /// EXPECTs that it is what the oracle says.
  void expect(const reference::IndexerPrepared& twin) const;

 private:
  void expect_codes(const reference::IndexerPrepared& twin) const;
  void expect_head(const reference::IndexerPrepared& twin, int64_t t, int h) const;

  IndexerShape shape_;
  Buffer& q_;
  Buffer& head_weights_;
  KeyPool pool_;
  std::vector<int64_t> written_;  // tokens of the pool, one a row
};

}  // namespace fulgur::test
