#include <gtest/gtest.h>

#include <array>

#include "ops/sample.h"
#include "reference/sample.h"
#include "unit/ops/op_table.h"

namespace fulgur::test {
namespace {

/// Rows of every kind of params. What is drawn must be in the oracle's support; greedy rows are known
/// exactly. (sample_test.cc looks at how often.)
class SampleCase : public OpCase<SampleCase> {
 public:
  SampleCase(Machine& machine, Random& random, int num_rows, int vocab)
      : logits_(machine.add(DType::kF32, num_rows, vocab, {.padding = 2}).fill([&](int64_t, int64_t) {
          return std::round(random.normal(4));  // with many ties
        })),
        params_(machine.add(DType::kU32, num_rows, sizeof(SamplingParams) / sizeof(uint32_t))),
        position_(machine.add(DType::kI32, num_rows, 1).fill([&](int64_t, int64_t) {
          return static_cast<double>(random.integer(0, 100000));
        })),
        token_(machine.add(DType::kI32, num_rows, 1).is_output()) {
    constexpr std::array<SamplingParams, 6> kKinds = {
        {{},
         {.temperature = 1},
         {.temperature = 0.6F, .top_k = 3},
         {.temperature = 1.5F, .top_p = 0.7F},
         {.temperature = 1, .min_p = 0.2F},
         {.temperature = 2, .top_k = 8, .top_p = 0.9F, .min_p = 0.05F}}};
    auto* params = static_cast<SamplingParams*>(params_.data(Side::kHost));
    for (int i = 0; i < num_rows; ++i) {
      params[i] = kKinds[static_cast<size_t>(i) % kKinds.size()];
      params[i].seed = static_cast<uint64_t>(random.integer(0, 1 << 30)) << 31;
    }
  }

  [[nodiscard]] int num_rows() const override { return static_cast<int>(logits_.rows()); }
  void check() override {
    with_op(Side::kHost, 0, num_rows(), [this](const Sample& op) {
      for (int64_t i = 0; i < op.logits.rows; ++i) {
        const std::span<const float> logits(op.logits.row(i), static_cast<size_t>(op.logits.cols));
        const auto token = static_cast<int32_t>(token_.after(i, 0));
        if (op.params[i].temperature == 0) {
          EXPECT_EQ(token, reference::greedy_token(logits)) << "row " << i;
          continue;
        }
        ASSERT_TRUE(token >= 0 && token < op.logits.cols) << "row " << i << ": token " << token;
        EXPECT_GT(reference::sampling_distribution(logits, op.params[i])[static_cast<size_t>(token)], 0)
            << "row " << i;
      }
    });
  }

  template <typename F>
  void with_op(Side side, int first, int count, F f) {
    f(Sample{logits_.matrix<const float>(side, first, count),
             static_cast<const SamplingParams*>(params_.data(side, first)),
             static_cast<const int32_t*>(position_.data(side, first)),
             static_cast<int32_t*>(token_.data(side, first))});
  }

 private:
  Buffer& logits_;
  Buffer& params_;
  Buffer& position_;
  Buffer& token_;
};

}  // namespace

std::vector<TableRow> sample_rows() {
  return {{"sample", 4, [](Machine& m, Random& r, int index) {
             const int vocabs[] = {1, 17, 192, 1280};
             return std::make_unique<SampleCase>(m, r, index == 0 ? 1 : 25, vocabs[index]);
           }}};
}

}  // namespace fulgur::test
