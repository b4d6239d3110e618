#include "unit/ops/indexer_outputs.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "reference/fp8_group.h"

namespace fulgur::test {

IndexerOutputs::IndexerOutputs(Machine& machine, const Batch& batch, const IndexerShape& shape, DType keys)
    : shape_(shape),
      q_(machine.add_output(keys, batch.num_tokens(), int64_t{shape.num_heads} * shape.head_dim)),
      head_weights_(machine.add_output(DType::kF32, batch.num_tokens(), shape.num_heads)),
      pool_(machine, batch, keys, shape.head_dim) {
  for (int row = 0; row < batch.num_tokens(); ++row) {
    written_.push_back(batch.pool_token(batch.sequence(row), batch.position(row)));
  }
  pool_.may_change(written_);
}

void IndexerOutputs::expect(const reference::IndexerPrepared& twin) const {
  if (q_.dtype() == DType::kF8E4M3) return expect_codes(twin);
  expect_close(twin.q, q_, "q");
  expect_close(twin.head_weights, head_weights_, "head_weights");
  expect_close(
      twin.keys,
      [this](int64_t row, int64_t dim) {
        return pool_.after(written_[static_cast<size_t>(row)], static_cast<int>(dim));
      },
      "keys");
  if (shape_.head_dim % 2 == 0) return;
  for (const int64_t token : written_)
    EXPECT_EQ(pool_.after(token, shape_.head_dim), 0) << "the last pair's padding";
}

void IndexerOutputs::expect_codes(const reference::IndexerPrepared& twin) const {
  for (int64_t t = 0; t < twin.keys.rows; ++t) {
    const int64_t token = written_[static_cast<size_t>(t)];
    const double scale = pool_.scale_after(token);
    EXPECT_TRUE(std::ranges::any_of(
        reference::group_scales(twin.keys.row(t), shape_.power_of_two_scales),
        [&](const reference::Real& allowed) { return allowed.lower() <= scale && scale <= allowed.upper(); }))
        << "the scale " << scale << " of key " << t;
    for (int i = 0; i < shape_.head_dim; ++i) {
      EXPECT_TRUE(reference::may_be_code(twin.keys.at(t, i), scale, pool_.after(token, i)))
          << "key " << t << " component " << i << ": " << pool_.after(token, i) << " for "
          << twin.keys.at(t, i).value / scale;
    }
    for (int h = 0; h < shape_.num_heads; ++h) expect_head(twin, t, h);
    if (testing::Test::HasFailure()) return;
  }
}

/// The head's own scale is seen in its weight alone.
void IndexerOutputs::expect_head(const reference::IndexerPrepared& twin, int64_t t, int h) const {
  const auto dim = static_cast<size_t>(shape_.head_dim);
  const reference::Row q = twin.q.row(t).subspan(static_cast<size_t>(h) * dim, dim);
  const double weight = head_weights_.after(t, h);
  const bool fits = std::ranges::any_of(
      reference::group_scales(q, shape_.power_of_two_scales), [&](const reference::Real& scale) {
        const reference::Real folded = twin.head_weights.at(t, h) * scale;
        if (!(folded.lower() <= weight && weight <= folded.upper())) return false;
        for (size_t i = 0; i < dim; ++i) {
          const auto column = static_cast<int64_t>(static_cast<size_t>(h) * dim + i);
          const float code = e4m3_to_float(static_cast<uint8_t>(q_.after(t, column)));
          if (!reference::may_be_code(q[i], scale, code)) return false;
        }
        return true;
      });
  EXPECT_TRUE(fits) << "row " << t << " head " << h << ", weight " << weight;
}

}  // namespace fulgur::test
