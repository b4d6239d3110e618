#include "runtime/logit_adjustment.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "runtime/logprobs.h"

namespace fulgur {
namespace {

TEST(LogitAdjustment, FollowsItsFormula) {
  const std::vector<int32_t> prompt = {0, 1};
  LogitAdjustment adjustment({.repetition_penalty = 2,
                              .frequency_penalty = 0.5F,
                              .presence_penalty = 0.25F,
                              .logit_bias = {{2, -5}, {4, 3}}},
                             prompt);
  adjustment.add(1);
  adjustment.add(2);
  adjustment.add(2);
  const std::vector<float> own = {4, -4, 4, 1, 1};
  std::vector<float> logits = own;
  adjustment.apply(logits);
  EXPECT_EQ(logits, (std::vector<float>{2, -8.75F, -3.25F, 1, 4}));

  // Drafts count as the text until it is known whether they are.
  logits = own;
  const std::vector<int32_t> drafts = {3, 2, 3};
  adjustment.apply(logits, drafts);
  for (const int32_t token : drafts) adjustment.add(token);
  std::vector<float> later = own;
  adjustment.apply(later);
  EXPECT_EQ(logits, later);
  EXPECT_EQ(logits, (std::vector<float>{2, -8.75F, -3.75F, -0.75F, 4}));
}

TEST(LogitAdjustment, LeavesAloneWhatNobodyAsksFor) {
  EXPECT_FALSE(LogitAdjustment({.temperature = 1}, {}).active());
  EXPECT_TRUE(LogitAdjustment({.presence_penalty = 0.1F}, {}).active());
  EXPECT_TRUE(LogitAdjustment({.logit_bias = {{1, 1}}}, {}).active());
}

TEST(Logprobs, OrderEqualTokensByIdAndSumToOne) {
  const std::vector<float> logits = {1, 3, 3, 2};
  std::vector<TokenLogprob> top;
  const double of_token = logprobs_of(logits, 2, 9, top);
  ASSERT_EQ(top.size(), 4U);
  EXPECT_EQ(top[0].id, 1);
  EXPECT_EQ(top[1].id, 2);
  EXPECT_EQ(top[3].id, 0);
  double sum = 0;
  for (const TokenLogprob& token : top) sum += std::exp(token.logprob);
  EXPECT_NEAR(sum, 1, 1e-14);
  EXPECT_EQ(of_token, top[1].logprob);
  std::vector<TokenLogprob> one;
  logprobs_of(logits, 2, 1, one);
  ASSERT_EQ(one.size(), 1U);
  EXPECT_EQ(one[0].id, 1);
}

}  // namespace
}  // namespace fulgur
