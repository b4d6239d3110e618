// The oracle itself, against answers it had no part in: transformers in float32
// (tests/golden/data/README.md).

#include "reference/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>

#include "reference/checkpoint.h"

namespace fulgur::reference {
namespace {

using Tensors = std::map<std::string, Table>;

/// The worst float32 error that the golden README reports is 3.3e-5 for logits and 9e-6 for index scores.
constexpr double kGoldenTolerance = 1e-4;

class GoldenModel : public testing::TestWithParam<std::string> {
 protected:
  const std::filesystem::path folder_ =
      std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data" / GetParam();
  const Model model_ = read_model(folder_);
  const Tensors golden_ = read_tensors(folder_ / "golden.safetensors");

  [[nodiscard]] std::vector<std::string> prompts() const {
    std::vector<std::string> names;
    for (const std::string prompt : {"p0", "p1", "p2", "p3"}) {
      if (golden_.contains(prompt + ".input_ids")) names.push_back(prompt);
    }
    return names;
  }
  [[nodiscard]] std::vector<int32_t> tokens(const std::string& prompt) const {
    std::vector<int32_t> ids;
    for (const Real& id : golden_.at(prompt + ".input_ids").data)
      ids.push_back(static_cast<int32_t>(id.value));
    return ids;
  }
};

class GoldenHidden : public GoldenModel {};
class GoldenScores : public GoldenModel {};
class GoldenMtp : public GoldenModel {};

double largest_difference(const Table& a, const Table& b) {
  if (a.rows != b.rows || a.cols != b.cols) return HUGE_VAL;
  double largest = 0;
  for (size_t i = 0; i < a.data.size(); ++i) {
    largest = std::max(largest, std::abs(a.data[i].value - b.data[i].value));
  }
  return largest;
}

Table rows_of(const Table& table, const Table& rows) {
  Table taken(rows.cols, table.cols);
  for (int64_t i = 0; i < rows.cols; ++i) {
    std::ranges::copy(table.row(static_cast<int64_t>(rows.at(0, i).value)), taken.row(i).begin());
  }
  return taken;
}

TEST_P(GoldenModel, GivesTheLogitsAndSelectionsOfEveryPrompt) {
  ASSERT_GE(prompts().size(), 2U);
  for (const std::string& prompt : prompts()) {
    const Trace trace = model_.forward(tokens(prompt));
    const Table logits = rows_of(trace.logits, golden_.at(prompt + ".rows"));
    EXPECT_LE(largest_difference(logits, golden_.at(prompt + ".logits")), kGoldenTolerance) << prompt;
    for (size_t layer = 0; layer < trace.selected.size(); ++layer) {
      if (!trace.index_scores[layer]) continue;  // shares the selection of a layer before, or has no indexer
      const Table& stored = golden_.at(prompt + ".topk." + std::to_string(layer));
      for (int64_t t = 0; t < stored.rows; ++t) {
        std::vector<int32_t> expected;
        for (const Real& s : stored.row(t)) {
          if (s.value >= 0) expected.push_back(static_cast<int32_t>(s.value));
        }
        EXPECT_EQ(trace.selected[layer][static_cast<size_t>(t)], expected)
            << prompt << " layer " << layer << " row " << t;
      }
    }
  }
}

TEST_P(GoldenScores, GivesTheIndexScores) {
  const Trace trace = model_.forward(tokens("p2"));
  for (size_t layer = 0; layer < trace.index_scores.size(); ++layer) {
    if (!trace.index_scores[layer]) continue;
    EXPECT_LE(largest_difference(*trace.index_scores[layer],
                                 golden_.at("p2.index_scores." + std::to_string(layer))),
              kGoldenTolerance)
        << "layer " << layer;
  }
}

TEST_P(GoldenHidden, GivesTheResidualStreamAfterEveryLayer) {
  const Trace trace = model_.forward(tokens("p1"));
  const size_t last = trace.hidden.size() - 1;
  for (size_t i = 0; i < last; ++i) {
    EXPECT_LE(largest_difference(trace.hidden[i], golden_.at("p1.hidden." + std::to_string(i))),
              kGoldenTolerance)
        << i;
  }
  EXPECT_LE(largest_difference(trace.final_hidden, golden_.at("p1.hidden." + std::to_string(last))),
            kGoldenTolerance);
}

TEST_P(GoldenMtp, GivesTheMtpModulesLogits) {
  ASSERT_TRUE(golden_.contains("p2.mtp_logits"));
  for (const std::string& prompt : prompts()) {
    if (!golden_.contains(prompt + ".mtp_logits")) continue;
    const std::vector<int32_t> ids = tokens(prompt);
    const MtpTrace trace = model_.forward_mtp(ids, model_.forward(ids).final_hidden);
    const Table logits = rows_of(trace.logits, golden_.at(prompt + ".mtp_rows"));
    EXPECT_LE(largest_difference(logits, golden_.at(prompt + ".mtp_logits")), kGoldenTolerance) << prompt;
    if (!golden_.contains(prompt + ".mtp_hidden")) continue;
    EXPECT_LE(largest_difference(trace.hidden, golden_.at(prompt + ".mtp_hidden")), kGoldenTolerance)
        << prompt;
  }
}

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

/// Hidden states, index scores and every row are stored with the bf16 folders alone.
const auto kDetailed = testing::Values("v32-bf16", "glm-bf16", "v3-bf16");
INSTANTIATE_TEST_SUITE_P(Oracle, GoldenModel,
                         testing::Values("v32-bf16", "v32-bf16-fused", "v32-fp8", "v32-fp8-fused",
                                         "v32-nvfp4", "glm-bf16", "glm-bf16-fused", "glm-fp8",
                                         "glm-fp8-fused", "glm-nvfp4-ct", "v3-bf16", "v3-fp8", "v3-nvfp4"),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Oracle, GoldenMtp,
                         testing::Values("glm-bf16", "glm-fp8", "glm-fp8-fused", "glm-nvfp4-ct", "v3-bf16",
                                         "v3-fp8", "v3-nvfp4"),
                         test_name);
INSTANTIATE_TEST_SUITE_P(Oracle, GoldenHidden, kDetailed, test_name);
INSTANTIATE_TEST_SUITE_P(Oracle, GoldenScores, testing::Values("v32-bf16", "glm-bf16"), test_name);
}  // namespace
}  // namespace fulgur::reference
