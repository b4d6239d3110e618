// The way into a back end: what run() calls, refuses and measures. With a back end that only notes its calls.

#include <gtest/gtest.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "ops/arena.h"
#include "ops/attention_prepare.h"
#include "ops/backend.h"
#include "ops/context.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/profile.h"

namespace fulgur {
namespace {

std::vector<std::string> calls;

Backend noting_backend() {
  return {.mla_prepare = [](Context&, const MlaPrepare&) { calls.emplace_back("mla_prepare"); },
          .indexer_prepare = [](Context&, const IndexerPrepare&) { calls.emplace_back("indexer_prepare"); }};
}

/// Operands of a layer with one head of everything and width 2, in shapes that run() accepts.
struct Layer {
  MlaWeights mla_weights{
      .q_b = {WeightForm::kF32, 4, 2}, .kv_a = {WeightForm::kF32, 4, 2}, .uk = {WeightForm::kF32, 2, 2}};
  MlaShape mla_shape{.num_heads = 1, .kv_lora = 2, .nope = 2, .rope = 2, .value = 2, .rope_interleave = true};
  IndexerWeights indexer_weights{.wk_weights_proj = {WeightForm::kF32, 3, 2},
                                 .wq_b = {WeightForm::kF32, 2, 2}};
  IndexerShape indexer_shape{.num_heads = 1, .head_dim = 2, .rope = 2, .rope_interleave = false};
  RopeTable rope;
  TokenBatch batch{.num_tokens = 1, .num_sequences = 1, .max_context = 1};
  Operand x{nullptr, DType::kF32, 1, 2, 2};
  Operand q{nullptr, DType::kF32, 1, 4, 4};
  PagedLatents latents{nullptr, DType::kF32, 1, 4};
  PagedKeys keys{nullptr, DType::kF32, 1, 2};

  MlaPrepare mla() const { return {x, mla_weights, mla_shape, rope, batch, x, q, latents}; }
  IndexerPrepare indexer() const {
    return {x,     x, indexer_weights, indexer_shape, IndexerProjection::kFused, rope,
            batch, x, {nullptr, 1, 1}, keys};
  }
};

TEST(AttentionPrepare, IsBothOpsOneAfterTheOtherWhereTheBackEndHasNoMergedOne) {
  const Backend backend = noting_backend();
  Context context{.backend = &backend};
  const Layer layer;
  const MlaPrepare mla = layer.mla();
  const IndexerPrepare indexer = layer.indexer();
  calls.clear();
  run(context, AttentionPrepare{mla, &indexer});
  EXPECT_EQ(calls, (std::vector<std::string>{"mla_prepare", "indexer_prepare"}));
  calls.clear();
  run(context, AttentionPrepare{mla, nullptr});
  EXPECT_EQ(calls, (std::vector<std::string>{"mla_prepare"}));
}

TEST(AttentionPrepare, IsTheBackEndsMergedOpWhereItHasOne) {
  Backend backend = noting_backend();
  backend.attention_prepare = [](Context&, const AttentionPrepare&) {
    calls.emplace_back("attention_prepare");
  };
  Profile profile;
  Context context{.backend = &backend, .profile = &profile};
  const Layer layer;
  const MlaPrepare mla = layer.mla();
  calls.clear();
  run(context, AttentionPrepare{mla, nullptr});
  EXPECT_EQ(calls, (std::vector<std::string>{"attention_prepare"}));
  EXPECT_EQ(profile.line(OpKind::kAttentionPrepare).calls, 1U);
  EXPECT_EQ(profile.line(OpKind::kMlaPrepare).calls, 0U);
}

TEST(Run, RefusesShapesThatTheContractRulesOut) {
  const Backend backend = noting_backend();
  Context context{.backend = &backend};
  Layer layer;
  layer.q.cols = 3;
  calls.clear();
  EXPECT_THROW(run(context, layer.mla()), std::logic_error);
  Layer other;
  other.keys.width = 3;
  EXPECT_THROW(run(context, other.indexer()), std::logic_error);
  EXPECT_THROW(run(context, RmsNorm{{nullptr, 1, 2}, {WeightForm::kF32, 1, 3}, 1e-6F, layer.x}),
               std::logic_error);
  EXPECT_TRUE(calls.empty());
}

TEST(Run, RefusesAnOpThatTheBackEndHasNoKernelFor) {
  const Backend backend = noting_backend();
  Context context{.backend = &backend};
  const Layer layer;
  EXPECT_THROW(run(context, Linear{layer.x, {WeightForm::kF32, 2, 2}, layer.x}), std::logic_error);
}

TEST(Arena, AsksForNothingMoreWithinTheRoomItReserved) {
  static int allocations = 0;
  allocations = 0;
  const Backend backend{.allocate =
                            [](size_t bytes) {
                              ++allocations;
                              return std::aligned_alloc(64, bytes);
                            },
                        .release = std::free};
  Arena arena(backend);
  ThreadTeam team(1);
  arena.reserve(size_t{8} << 20, team);
  for (int step = 0; step < 2; ++step) {
    const ArenaScope scope(arena);
    arena.allocate(size_t{5} << 20);
    const ArenaScope inner(arena);
    arena.allocate(size_t{3} << 20);
  }
  EXPECT_EQ(allocations, 1);
  arena.reserve(size_t{16} << 20, team);
  arena.allocate(size_t{16} << 20);
  EXPECT_EQ(allocations, 2);
}

TEST(Run, RefusesScalesThatKernelsCantFind) {
  const Backend backend{.linear = [](Context&, const Linear&) { calls.emplace_back("linear"); }};
  Context context{.backend = &backend};
  const float scales[4] = {};
  const auto run_with = [&](const Weight& w) {
    run(context,
        Linear{{nullptr, DType::kF32, 1, w.cols, w.cols}, w, {nullptr, DType::kF32, 1, w.rows, w.rows}});
  };
  Weight w{.form = WeightForm::kFp8,
           .rows = 2,
           .cols = 200,
           .data = scales,
           .scales = scales,
           .block_rows = 128,
           .block_cols = 128};
  calls.clear();
  run_with(w);
  w.block_cols = 200;
  run_with(w);
  EXPECT_EQ(calls.size(), 2U);
  w.block_cols = 64;
  EXPECT_THROW(run_with(w), std::logic_error);
  w.block_cols = 0;
  EXPECT_THROW(run_with(w), std::logic_error);
  w.block_cols = 128;
  w.scales = nullptr;
  EXPECT_THROW(run_with(w), std::logic_error);
  w = {.form = WeightForm::kNvfp4, .rows = 2, .cols = 40, .data = scales, .scales = scales};
  EXPECT_THROW(run_with(w), std::logic_error);
}

TEST(Profile, NamesEveryOpOnce) {
  std::vector<std::string_view> names;
  for (size_t i = 0; i < kNumOpKinds; ++i) names.push_back(name(static_cast<OpKind>(i)));
  EXPECT_EQ(names[static_cast<size_t>(OpKind::kAttentionPrepare)], "attention_prepare");
  EXPECT_EQ(names[static_cast<size_t>(OpKind::kIndexerSelect)], "indexer_select");
  EXPECT_EQ(names[static_cast<size_t>(OpKind::kSample)], "sample");
}

}  // namespace
}  // namespace fulgur
