// What must hold of any checkpoint, checked on draws.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <iostream>

#include "checkpoint/verify.h"
#include "model/load.h"
#include "property/any_checkpoint.h"
#include "property/check_load.h"
#include "property/oracle.h"
#include "property/run_model.h"
#include "runtime/scheduler.h"
#include "runtime/step_runner.h"

namespace fulgur::property {
namespace {

/// Attempts at values without a close call, of one draw.
constexpr int kMostAttempts = 10;
constexpr int kThreads = 2;
/// Each draw is damaged in every third way, one after the other.
constexpr int64_t kDefectStep = 3;

void require_same(const std::string& what, const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) != 0)
    fail(what + " gives other bits");
}

Engine engine(const LoadedModel& model, Precision precision, int threads, int64_t step_tokens = 512) {
  return {model,
          nullptr,
          {.threads = threads, .precision = precision, .num_pages = 1},
          {.num_pages = 1, .step_tokens = step_tokens}};
}

/// Neither the projection mode nor the steps that the prompt is cut into change a bit.
void require_same_however(const LoadedModel& model, Precision precision, int threads,
                          const std::vector<int32_t>& tokens, const std::vector<float>& expected) {
  Engine chunked = engine(model, precision, threads, 1);
  require_same("token by token", run_logits(chunked, tokens), expected);
  if (!model.config.sparse()) return;
  Engine whole = engine(model, precision, threads);
  whole.runner().set_projection(IndexerProjection::kSeparate);
  require_same("separate", run_logits(whole, tokens), expected);
  whole.runner().set_projection(IndexerProjection::kOverlapped);
  require_same("overlapped", run_logits(whole, tokens), expected);
}

/// (b) and (c) for one attempt at values; false if a close call asks for another.
bool runs_as_the_oracle_says(const Draw& draw, int attempt) {
  const StoredModel stored = store(draw.model, draw.store, attempt);
  const std::vector<int32_t> tokens = prompt(draw.model, attempt);
  const Oracle oracle(draw.model, stored.tables, tokens);
  if (oracle.is_close_call()) return false;

  const TemporaryFolder folder;
  write_files(shard(stored, draw.shards), stored, folder.path());
  require_whole_plan(draw.model, stored, folder.path(), false);
  require_whole_plan(draw.model, stored, folder.path(), true);
  require_weights(stored, folder.path(), kAllForms);
  constexpr WeightForm kPlain[] = {WeightForm::kBf16, WeightForm::kF16, WeightForm::kF32};
  require_weights(stored, folder.path(), kPlain);

  const LoadedModel model = load_model(folder.path(), Precision::kFull, kThreads);
  Engine one = engine(model, Precision::kFull, kThreads);
  const EngineRun run = run_engine(one, tokens);
  if (const std::string difference = oracle.difference(run); !difference.empty()) fail(difference);
  require_same_however(model, Precision::kFull, kThreads, tokens, run.logits);

  const TemporaryFolder other;
  write_files(shard(stored, draw.other_shards), stored, other.path());
  for (const Precision precision : {Precision::kFull, Precision::kNative}) {
    const LoadedModel again = load_model(other.path(), precision, kThreads);
    Engine elsewhere = engine(again, precision, 1);
    const std::vector<float> logits = run_logits(elsewhere, tokens);
    if (precision == Precision::kFull)
      require_same("another order in other shards, on one thread,", logits, run.logits);
    if (precision == Precision::kNative) require_same_however(again, precision, 1, tokens, logits);
  }
  return true;
}

TEST(AnyCheckpoint, RunsAsTheOracleDoesOnItsDequantizedValues) {
  int draws = 0;
  int redrawn = 0;
  expect_holds([&](const Draw& draw) {
    ++draws;
    for (int attempt = 0; attempt < kMostAttempts && !runs_as_the_oracle_says(draw, attempt); ++attempt)
      ++redrawn;
  });
  std::cout << fmt::format("{} draws, {} redrawn for a close call\n", draws, redrawn);
  EXPECT_LE(redrawn, 3 + draws / 10);
}

/// Everything that is said of a checkpoint when it is read as `inspect --verify` does, in the stages in which
/// it would be.
std::vector<Problem> refusals(const std::filesystem::path& folder) {
  const ModelFiles files = read_model_files(folder);
  if (!files.problems.empty()) return files.problems;
  const ModelPlan plan = plan_model(*files.config, Precision::kNative, *files.catalog, /*with_mtp=*/true);
  if (!plan.load.problems.empty()) return plan.load.problems;
  return verify(plan.load, *files.catalog, kThreads);
}

/// The defect is seen, whoever reads the checkpoint, and nothing else is said.
void require_refusal(const DamagedModel& damaged) {
  const TemporaryFolder folder;
  write_files(damaged.files, damaged.model, folder.path());
  if (damaged.after_writing) damaged.after_writing(folder.path());
  const std::string wrong = disagreement(damaged.expected, refusals(folder.path()));
  if (!wrong.empty()) fail(damaged.in_words + "\n" + wrong);
  const bool only_verified = damaged.expected.front().kind == ErrorKind::kBadValue;
  const auto thrown = problems_of([&] { load_model(folder.path(), Precision::kFull, kThreads); });
  if (thrown.empty() != (damaged.mtp || only_verified)) fail(damaged.in_words + ": load_model disagrees");
}

TEST(AnyCheckpoint, IsRefusedWithOneDefectThatIsNamed) {
  expect_holds([&](const Draw& draw) {
    const StoredModel good = store(draw.model, draw.store, 0);
    for (int64_t kind = draw.damage.kind % kDefectStep; kind < num_defects(); kind += kDefectStep) {
      require_refusal(damage(draw.model, good, draw.shards, {kind, draw.damage.where, draw.damage.how}));
    }
  });
}

}  // namespace
}  // namespace fulgur::property
