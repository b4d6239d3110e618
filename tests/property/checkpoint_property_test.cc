// Any model of the family, stored in any of the forms of docs/spec/checkpoints.md, in any files: what must
// hold of each, checked on draws.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <set>

#include "checkpoint/verify.h"
#include "property/damage_model.h"
#include "property/draw_model.h"
#include "property/oracle.h"
#include "property/run_model.h"
#include "property/shard_model.h"
#include "property/store_model.h"

namespace fulgur::property {
namespace {

/// For `make check`: the same draws every time. RC_PARAMS="max_success=2000" draws more, and others.
constexpr const char* kQuickRun = "seed=20261127 max_success=40";
/// Attempts at values without a close call, of one draw.
constexpr int kMostAttempts = 10;
constexpr int kThreads = 2;

/// A draw is plain integers, so that rapidcheck can shrink it.
struct Draw {
  ModelDraw model;
  StoreDraw store;
  ShardDraw shards;
  ShardDraw other_shards;
  DamageDraw damage;
};

void showValue(const Draw& draw, std::ostream& out) {
  out << in_words(draw.model) << '\n'
      << in_words(draw.store) << '\n'
      << in_words(draw.shards) << "\nthen in " << in_words(draw.other_shards);
}

rc::Gen<Draw> any_draw() {
  return rc::gen::exec([] {
    const Pick pick = [](int64_t least, int64_t most) {
      return *rc::gen::resize(rc::kNominalSize, rc::gen::inRange(least, most + 1));
    };
    Draw draw;
    draw.model = draw_model(pick);
    draw.store = draw_store(pick, draw.model);
    draw.shards = draw_shards(pick);
    draw.other_shards = draw_shards(pick);
    draw.damage = draw_damage(pick);
    return draw;
  });
}

void expect_holds(const std::function<void(const Draw&)>& property) {
  setenv("RC_PARAMS", kQuickRun, /*overwrite=*/0);
  const std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
  EXPECT_TRUE(rc::check(name, [&] { property(*any_draw()); }));
}

void require_same(const std::string& what, const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) != 0)
    RC_FAIL(what + " gives other bits");
}

/// (a) No problem, and every tensor in one parameter (kv_b_proj in two) or ignored by a rule that was meant.
void require_whole_plan(const ModelDraw& draw, const StoredModel& stored, const std::filesystem::path& folder,
                        bool with_mtp) {
  const Catalog catalog = read_catalog(folder);
  const ModelPlan plan = plan_model(read_config(folder), Precision::kNative, catalog, with_mtp);
  if (!plan.load.problems.empty()) RC_FAIL(summary(plan.load.problems));
  std::set<std::string> used;
  std::set<std::string> ignored;
  const auto name_of = [&](int entry) { return catalog.entries[static_cast<size_t>(entry)].name; };
  for (const PlannedParameter& parameter : plan.load.parameters) {
    for (const PlannedSource& source : parameter.sources) {
      used.insert(name_of(source.entry));
      for (const PlannedScale& scale : source.scales) used.insert(name_of(scale.entry));
    }
  }
  for (const IgnoredTensor& tensor : plan.load.ignored) ignored.insert(name_of(tensor.entry));
  const bool uses_mtp = with_mtp && draw.mtp != Mtp::kStray;
  for (const StoredTensor& t : stored.tensors) {
    const bool needed =
        (t.use == StoredTensor::Use::kWeight || t.use == StoredTensor::Use::kScale) && (!t.mtp || uses_mtp);
    if (used.contains(t.tensor.name) != needed || ignored.contains(t.tensor.name) == needed)
      RC_FAIL(t.tensor.name + (needed ? " is not used" : " is not ignored"));
  }
}

/// A parameter from the tensors that it is made of.
reference::Table expected_weight(const Parameter& parameter, const StoredModel& stored) {
  const auto table = [&](size_t spelling, size_t part) -> const reference::Table& {
    return stored.tables.at(parameter.spellings[spelling][part].tensor);
  };
  if (parameter.spellings.size() == 2) {  // the indexer's projection
    if (!stored.tables.contains(parameter.spellings[0][0].tensor)) return table(1, 0);
    reference::Table rows = table(0, 0);
    const reference::Table& below = table(0, 1);
    rows.data.insert(rows.data.end(), below.data.begin(), below.data.end());
    rows.rows += below.rows;
    return rows;
  }
  const reference::Table& whole = table(0, 0);
  if (parameter.arrangement == Arrangement::kRows) return whole;
  const bool uk = parameter.arrangement == Arrangement::kUkTransposed;
  reference::Table part(parameter.rows, parameter.cols);
  for (int64_t head = 0; head < parameter.num_heads; ++head) {
    const int64_t first = head * (parameter.nope + parameter.value);
    for (int64_t i = 0; i < (uk ? parameter.nope : parameter.value); ++i) {
      for (int64_t c = 0; c < whole.cols; ++c) {
        (uk ? part.at(head * whole.cols + c, i) : part.at(head * parameter.value + i, c)) =
            whole.at(first + (uk ? 0 : parameter.nope) + i, c);
      }
    }
  }
  return part;
}

/// Every weight as kernels read it, the MTP layer's too, is the exact product of its codes and scales.
void require_weights(const StoredModel& stored, const std::filesystem::path& folder,
                     std::span<const WeightForm> readable) {
  const Catalog catalog = read_catalog(folder);
  const ModelPlan plan =
      plan_model(read_config(folder), Precision::kFull, catalog, /*with_mtp=*/true, readable);
  const LoadedWeights loaded = execute(plan.load, plan.parameters, catalog, kThreads);
  for (size_t i = 0; i < plan.parameters.size(); ++i) {
    const reference::Table expected = expected_weight(plan.parameters[i], stored);
    const reference::Table found = reference::values_of(loaded.weights[i]);
    RC_ASSERT(found.data.size() == expected.data.size());
    for (size_t j = 0; j < found.data.size(); ++j) {
      if (std::abs(found.data[j].value - expected.data[j].value) <= expected.data[j].error) continue;
      RC_FAIL(fmt::format("{}[{}] is {}, not {}", plan.parameters[i].name, j, found.data[j].value,
                          expected.data[j].value));
    }
  }
}

/// The projection mode changes no bit.
void require_every_mode(Session& session, const std::vector<int32_t>& tokens,
                        const std::vector<float>& fused) {
  if (!session.config().sparse()) return;
  for (const auto& [mode, what] : {std::pair(IndexerProjection::kSeparate, "separate"),
                                   std::pair(IndexerProjection::kOverlapped, "overlapped")}) {
    session.set_projection(mode);
    require_same(what, run_engine(session, tokens, /*record_all=*/false).logits, fused);
  }
}

SessionOptions options(Precision precision) {
  return {.threads = kThreads, .precision = precision, .cache_tokens = 64};
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
  Session session(model, options(Precision::kFull));
  const EngineRun run = run_engine(session, tokens, /*record_all=*/true);
  if (const std::string difference = oracle.difference(run); !difference.empty()) RC_FAIL(difference);
  require_every_mode(session, tokens, run.logits);

  const TemporaryFolder other;
  write_files(shard(stored, draw.other_shards), stored, other.path());
  for (const Precision precision : {Precision::kFull, Precision::kNative}) {
    const LoadedModel again = load_model(other.path(), precision, kThreads);
    Session elsewhere(again, options(precision));
    const std::vector<float> logits = run_engine(elsewhere, tokens, /*record_all=*/false).logits;
    if (precision == Precision::kFull) require_same("another order in other shards", logits, run.logits);
    if (precision == Precision::kNative) require_every_mode(elsewhere, tokens, logits);
  }
  return true;
}

TEST(AnyCheckpoint, RunsAsTheOracleDoesOnItsDequantizedValues) {
  int draws = 0;
  int redrawn = 0;
  expect_holds([&](const Draw& draw) {
    ++draws;
    for (int attempt = 0; !runs_as_the_oracle_says(draw, attempt); ++attempt) {
      ++redrawn;
      if (attempt == kMostAttempts) RC_DISCARD("every attempt has a close call");
    }
  });
  std::cout << fmt::format("{} draws, {} redrawn for a close call\n", draws, redrawn);
  EXPECT_LE(redrawn, draws / 2);
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

TEST(AnyCheckpoint, IsRefusedWithOneDefectThatIsNamed) {
  expect_holds([&](const Draw& draw) {
    const StoredModel good = store(draw.model, draw.store, 0);
    const DamagedModel damaged = damage(draw.model, good, draw.shards, draw.damage);
    const TemporaryFolder folder;
    write_files(damaged.files, damaged.model, folder.path());
    if (damaged.after_writing) damaged.after_writing(folder.path());
    const std::string wrong = disagreement(damaged, refusals(folder.path()));
    if (!wrong.empty()) RC_FAIL(damaged.in_words + "\n" + wrong);

    const bool only_verified = damaged.expected.front().kind == ErrorKind::kBadValue;
    const auto thrown = problems_of([&] { load_model(folder.path(), Precision::kFull, kThreads); });
    if (thrown.empty() != (damaged.mtp || only_verified))
      RC_FAIL(damaged.in_words + ": load_model disagrees");
  });
}

}  // namespace
}  // namespace fulgur::property
