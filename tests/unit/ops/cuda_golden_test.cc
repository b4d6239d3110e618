// In f32 the indexer of the CUDA back end gives what transformers gave (tests/golden/data/README.md): its
// scores, and the very sets.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "ops/indexer_prepare.h"
#include "ops/indexer_select.h"
#include "reference/checkpoint.h"
#include "reference/linear.h"
#include "reference/mla_prepare.h"
#include "reference/rms_norm.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

/// As of the oracle's own test: f32 against f32, with other orders of summation.
constexpr double kGoldenTolerance = 1e-4;

using Golden = std::map<std::string, reference::Table>;

class GoldenIndexer : public testing::TestWithParam<std::tuple<Tested, std::string>> {
 protected:
  const std::filesystem::path folder_ =
      std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data" / std::get<1>(GetParam());
  const Golden golden_ = reference::read_tensors(folder_ / "golden.safetensors");
  const reference::Model model_ = reference::read_model(folder_);

  static Buffer& add(Machine& machine, const reference::Table& table) {
    return machine.add(DType::kF32, table.rows, table.cols).fill([&](int64_t r, int64_t c) {
      return table.at(r, c).value;
    });
  }
};

TEST_P(GoldenIndexer, GivesTheScoresAndSetsOfTransformers) {
  std::vector<int32_t> tokens;
  for (const reference::Real& id : golden_.at("p2.input_ids").data)
    tokens.push_back(static_cast<int32_t>(id.value));
  const auto count = static_cast<int>(tokens.size());
  const reference::Trace trace = model_.forward(tokens);
  const reference::ModelConfig& config = model_.config();
  const IndexerShape& shape = config.indexer;
  int layers_with_indexer = 0;
  for (size_t i = 0; i < model_.tables().layers.size(); ++i) {
    const reference::LayerTables& layer = model_.tables().layers[i];
    if (!layer.indexer) continue;
    ++layers_with_indexer;
    const reference::Table x = reference::rms_norm(trace.hidden[i], layer.input_norm.row(0), config.eps);
    const reference::Table q_latent =
        reference::rms_norm(reference::linear(x, layer.q_a), layer.q_a_norm.row(0), reference::kLatentEps);
    reference::Table kw(shape.head_dim + shape.num_heads, x.cols);
    std::ranges::copy(layer.indexer->wk.data, kw.data.begin());
    std::ranges::copy(layer.indexer->weights_proj.data,
                      kw.data.begin() + static_cast<int64_t>(layer.indexer->wk.data.size()));
    const reference::RopeAngles angles = reference::rope_angles(config.rope, count);

    Machine machine(*std::get<0>(GetParam()).backend);
    Random random(41);
    Batch batch(machine, random, {{0, count}});
    Buffer& x_buffer = add(machine, x);
    Buffer& q_latent_buffer = add(machine, q_latent);
    Buffer& kw_buffer = add(machine, kw);
    Buffer& gain = add(machine, layer.indexer->k_norm_gain);
    Buffer& bias = add(machine, layer.indexer->k_norm_bias);
    Buffer& wq_b = add(machine, layer.indexer->wq_b);
    Buffer& cos = add(machine, angles.cos);
    Buffer& sin = add(machine, angles.sin);
    KeyPool pool(machine, batch, DType::kF32, shape.head_dim);
    Buffer& q = machine.add_output(DType::kF32, count, wq_b.rows());
    Buffer& head_weights = machine.add_output(DType::kF32, count, shape.num_heads);
    Buffer& scores = machine.add_output(DType::kF32, count, count);
    Buffer& selected = machine.add_output(DType::kI32, count, config.index_topk);
    machine.upload();
    const Side side = Side::kBackend;
    const TokenBatch rows = batch.rows(side);
    const IndexerWeights weights{kw_buffer.weight(side), gain.weight(side), bias.weight(side),
                                 wq_b.weight(side)};
    const RopeTable rope{cos.matrix<const float>(side), sin.matrix<const float>(side)};
    Context& context = machine.context(2);
    run(context, IndexerPrepare{x_buffer.operand(side), q_latent_buffer.operand(side), weights, shape,
                                IndexerProjection::kFused, rope, rows, q.operand(side),
                                head_weights.matrix<float>(side), pool.keys(side)});
    const Matrix<const float> weights_of_heads = head_weights.matrix<float>(side);
    run(context, IndexerSelect{q.operand(side), weights_of_heads, pool.keys(side), shape, rows,
                               selected.matrix<int32_t>(side)});
    run(context, IndexerScores{q.operand(side), weights_of_heads, pool.keys(side), shape, rows,
                               scores.matrix<float>(side)});
    machine.download();

    const reference::Table& golden_scores = golden_.at("p2.index_scores." + std::to_string(i));
    const reference::Table& golden_sets = golden_.at("p2.topk." + std::to_string(i));
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t s = 0; s <= t; ++s)
        ASSERT_NEAR(scores.after(t, s), golden_scores.at(t, s).value, kGoldenTolerance)
            << "layer " << i << " [" << t << ", " << s << "]";
    }
    for (int64_t t = 0; t < golden_sets.rows; ++t) {
      std::vector<int32_t> expected;
      for (const reference::Real& s : golden_sets.row(t))
        if (s.value >= 0) expected.push_back(static_cast<int32_t>(s.value));
      std::vector<int32_t> own;
      for (int64_t k = 0; k < selected.cols(); ++k)
        if (selected.after(t, k) >= 0) own.push_back(static_cast<int32_t>(selected.after(t, k)));
      ASSERT_EQ(own, expected) << "layer " << i << " row " << t;
    }
  }
  EXPECT_GT(layers_with_indexer, 0);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GoldenIndexer);  // without a device
INSTANTIATE_TEST_SUITE_P(BackEnds, GoldenIndexer,
                         testing::Combine(testing::ValuesIn(tested_backends()),
                                          testing::Values("v32-bf16", "glm-bf16")),
                         [](const testing::TestParamInfo<GoldenIndexer::ParamType>& info) {
                           std::string name =
                               short_name(std::get<0>(info.param)) + "_" + std::get<1>(info.param);
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace fulgur::test
