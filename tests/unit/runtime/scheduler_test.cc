#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

namespace fulgur {
namespace {

std::vector<int32_t> tokens(int64_t count, int32_t begin = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), begin);
  return ids;
}

/// Plans a step and runs it: every chunk that draws gets the token 9.
BatchPlan step(Scheduler& scheduler, const std::vector<int32_t>& drafts = {}) {
  BatchPlan plan = scheduler.plan();
  std::vector<ChunkResult> results;
  for (const PlannedChunk& chunk : plan.chunks) {
    results.push_back(chunk.draws ? ChunkResult{{9}, drafts} : ChunkResult{});
  }
  scheduler.complete(plan, results);
  return plan;
}

/// Of each chunk: who, where it begins, how many tokens.
struct Shape {
  RequestId request;
  int64_t first;
  size_t count;
  bool operator==(const Shape&) const = default;
};
std::vector<Shape> shape(const BatchPlan& plan) {
  std::vector<Shape> shapes;
  for (const PlannedChunk& chunk : plan.chunks)
    shapes.push_back({chunk.request, chunk.first, chunk.tokens.size()});
  return shapes;
}
void PrintTo(const Shape& s, std::ostream* out) {
  *out << s.request << ": " << s.count << " from " << s.first;
}

TEST(Scheduler, CutsPromptsAtTheBudgetAndPutsDecodeTokensFirst) {
  Scheduler scheduler({.num_pages = 20, .step_tokens = 100});
  scheduler.add(1, tokens(30));
  scheduler.add(2, tokens(150, 1000));
  scheduler.add(3, tokens(10, 2000));
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{1, 0, 30}, {2, 0, 70}}));
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{1, 30, 1}, {2, 70, 80}, {3, 0, 10}}));
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{1, 31, 1}, {2, 150, 1}, {3, 10, 1}}));
}

TEST(Scheduler, AdmitsInOrderOfArrivalAndOnlyWhatThePagesHold) {
  Scheduler scheduler({.num_pages = 4, .step_tokens = 1000});
  scheduler.add(1, tokens(130));       // three pages
  scheduler.add(2, tokens(70, 1000));  // two: must wait
  scheduler.add(3, tokens(10, 2000));  // one would fit, but it came later
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{1, 0, 130}}));
  EXPECT_EQ(scheduler.num_waiting(), 2U);
  scheduler.remove(1);
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{2, 0, 70}, {3, 0, 10}}));
}

TEST(Scheduler, SetsTheYoungestBackWhenPagesRunOutAndComputesItAgainFromWhatItKnows) {
  Scheduler scheduler({.num_pages = 3, .step_tokens = 1000, .prefix_cache = false});
  scheduler.add(1, tokens(64));
  scheduler.add(2, tokens(63, 1000));
  step(scheduler);  // both draw; the first now needs a second page
  step(scheduler);  // and takes it; the second fills its first page
  const BatchPlan third = step(scheduler);
  EXPECT_EQ(third.preempted, std::vector<RequestId>{2});
  EXPECT_EQ(shape(third), (std::vector<Shape>{{1, 65, 1}}));
  EXPECT_EQ(scheduler.num_waiting(), 1U);
  scheduler.remove(1);
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{2, 0, 65}}));  // its prompt and two drawn tokens
}

TEST(Scheduler, BeginsAfterThePrefixThatIsCachedButAlwaysComputesTheLastToken) {
  Scheduler scheduler({.num_pages = 20, .step_tokens = 1000});
  scheduler.add(1, tokens(200));
  step(scheduler);
  scheduler.add(2, tokens(200));
  scheduler.add(3, tokens(128));
  scheduler.add(4, tokens(200), /*reuse_prefix=*/false);
  const BatchPlan plan = step(scheduler);
  EXPECT_EQ(shape(plan), (std::vector<Shape>{{1, 200, 1}, {2, 192, 8}, {3, 64, 64}, {4, 0, 200}}));
  EXPECT_EQ(plan.admitted[0].cached_tokens, 192);
  EXPECT_EQ(scheduler.pages_of(3)[0], scheduler.pages_of(1)[0]);
  EXPECT_EQ(scheduler.pages_of(3)[1], scheduler.pages_of(1)[1]);  // computed twice, kept once
  EXPECT_EQ(scheduler.pages_of(4)[2], scheduler.pages_of(1)[2]);
}

TEST(Scheduler, FindsWhatWasGeneratedTooWhenAConversationGoesOn) {
  Scheduler scheduler({.num_pages = 20, .step_tokens = 1000});
  scheduler.add(1, tokens(60));
  for (int i = 0; i < 5; ++i) step(scheduler);  // 64 tokens computed
  scheduler.remove(1);
  std::vector<int32_t> next = tokens(60);
  next.resize(70, 9);
  scheduler.add(2, next);
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{2, 64, 6}}));
}

TEST(Scheduler, VerifiesDraftsInTheSameStepAndGivesThePagesOfWrongOnesBack) {
  Scheduler scheduler({.num_pages = 2, .step_tokens = 1000});
  scheduler.add(1, tokens(62));
  step(scheduler, {9, 7, 5});
  BatchPlan plan = scheduler.plan();
  ASSERT_EQ(shape(plan), (std::vector<Shape>{{1, 62, 4}}));
  EXPECT_EQ(plan.chunks[0].num_drafts, 3);
  EXPECT_EQ(plan.chunks[0].tokens, (std::vector<int32_t>{9, 9, 7, 5}));
  EXPECT_EQ(scheduler.pages().num_available(), 0);
  scheduler.complete(plan, std::vector<ChunkResult>{{{8}, {}}});  // none was right
  EXPECT_EQ(scheduler.pages().num_available(), 1);
  EXPECT_EQ(shape(step(scheduler, {9})), (std::vector<Shape>{{1, 63, 1}}));
  plan = scheduler.plan();
  scheduler.complete(plan, std::vector<ChunkResult>{{{9, 4}, {}}});  // the draft was right
  EXPECT_EQ(shape(step(scheduler)), (std::vector<Shape>{{1, 66, 1}}));
}

TEST(Scheduler, PlansTheSameTokensAgainAfterAStepThatFailed) {
  Scheduler scheduler({.num_pages = 4, .step_tokens = 100});
  scheduler.add(1, tokens(50));
  scheduler.add(2, tokens(40, 1000));
  const BatchPlan failed = scheduler.plan();
  scheduler.remove(1);
  EXPECT_EQ(shape(scheduler.plan()), (std::vector<Shape>{{2, 0, 40}}));
  EXPECT_EQ(failed.num_tokens(), 90);
}

}  // namespace
}  // namespace fulgur
