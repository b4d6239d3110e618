// The table of defects, crossed with every golden: each is refused for what it is, in a whole message, and
// for nothing else.

#include "defects.h"

#include <gtest/gtest.h>

#include "checkpoint/verify.h"
#include "model/inspection.h"
#include "whole_problem.h"

namespace fulgur {
namespace {

/// What `fulgur inspect --verify` finds.
std::vector<Problem> problems_in(const std::filesystem::path& folder) {
  const Inspection inspection = inspect_model(read_model_files(folder), Precision::kNative);
  if (!inspection.problems.empty()) return inspection.problems;
  return verify(inspection.plan->load, *inspection.catalog, /*num_threads=*/1);
}

std::string lines(std::vector<std::string> problems) {
  std::sort(problems.begin(), problems.end());
  return fmt::format("{}", fmt::join(problems, "\n"));
}

void expect_refused(const GoldenCheckpoint& checkpoint, const Expected& expected) {
  const TemporaryFolder written;
  checkpoint.write(written);
  const std::filesystem::path& folder = written.path();
  const std::vector<Problem> problems = problems_in(folder);
  EXPECT_EQ(summary(problems), lines(expected.problems));
  expect_whole(problems);
  if (problems.empty()) return;
  const std::string report = Error(problems).what();
  for (const std::string& word : expected.words) {
    EXPECT_NE(report.find(word), std::string::npos) << "'" << word << "' is not in\n" << report;
  }
  if (!expected.when_loaded) return;
  std::vector<std::string> in_use = expected.problems;  // loading leaves the MTP layer out
  std::erase_if(in_use, [&](const std::string& line) {
    return line.find(fmt::format(" model.layers.{}.", checkpoint.num_layers())) != std::string::npos;
  });
  EXPECT_EQ(summary(problems_of([&] { load_model(folder, Precision::kNative, /*num_threads=*/1); })),
            lines(in_use));
}

class Defects : public ::testing::TestWithParam<Defect> {};

TEST_P(Defects, AreRefusedByName) {
  int applied = 0;
  for (const char* golden : kGoldens) {
    SCOPED_TRACE(golden);
    GoldenCheckpoint checkpoint = GoldenCheckpoint::read(golden);
    const auto expected = GetParam().damage(checkpoint);
    if (!expected) continue;
    ++applied;
    expect_refused(checkpoint, *expected);
  }
  EXPECT_GT(applied, 0) << "no golden has what this defect damages";
}

std::vector<Defect> all_defects() {
  std::vector<Defect> all = tensor_defects();
  for (const auto& more : {scale_defects(), file_defects()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

std::string test_name(const ::testing::TestParamInfo<Defect>& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Table, Defects, ::testing::ValuesIn(all_defects()), test_name);

class Golden : public ::testing::TestWithParam<const char*> {};

std::string golden_name(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Each, Golden, ::testing::ValuesIn(kGoldens), golden_name);

TEST_P(Golden, IsGoodAsItIsWrittenAnewDividedOrWithoutAnIndex) {
  GoldenCheckpoint checkpoint = GoldenCheckpoint::read(GetParam());
  const auto expect_good = [&] {
    const TemporaryFolder folder;
    checkpoint.write(folder);
    EXPECT_EQ(summary(problems_in(folder.path())), "");
  };
  expect_good();
  checkpoint.divide();
  for (const std::string& file : checkpoint.files()) checkpoint.edit_header(file, [](std::string&) {});
  expect_good();
  checkpoint.remove_index();
  expect_good();
}

/// A defect of each kind that a plan can find, all in one checkpoint, each of another module.
TEST_P(Golden, HasAllItsDefectsReportedTogether) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  std::vector<std::string> expected;
  const auto expect = [&](ErrorKind kind, const std::string& tensor) {
    expected.push_back(problem(kind, tensor));
  };
  c.erase_module("model.norm.weight");
  expect(ErrorKind::kMissingTensor, "model.norm.weight");
  const std::string router = *c.first("model.layers.*.mlp.gate.weight");
  c.store_as(router, "BF16", {1, c.number("hidden_size")});
  expect(ErrorKind::kShapeMismatch, router);
  c.store_as("model.embed_tokens.weight", "U8", c.at("model.embed_tokens.weight").shape);
  expect(ErrorKind::kUnknownDType, "model.embed_tokens.weight");
  c.add("model.layers.0.mywk.weight", "BF16", {1});
  expect(ErrorKind::kUnexpectedTensor, "model.layers.0.mywk.weight");
  c.add("model.layers.0.nothing.weight_scale", "F32", {1});
  expect(ErrorKind::kOrphanScale, "model.layers.0.nothing.weight_scale");
  const std::string output = *c.first("model.layers.*.self_attn.o_proj.weight");
  c.add(module_of(output) + "weight_packed", "U8", {1, 1});
  expect(ErrorKind::kConflictingTensors, output);
  if (const auto scale = c.first("model.layers.*.mlp.experts.*.up_proj.weight_scale*")) {
    const std::string module = module_of(*scale);
    c.erase(*scale);
    expect(ErrorKind::kMissingScale, module + (c.has(module + "weight") ? "weight" : "weight_packed"));
  }
  expect_refused(c, {.problems = expected, .words = {}});
}

TEST_P(Golden, ListsTwentyDefectsOfAKindAndCountsTheRest) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  for (int i = 0; i < 25; ++i) c.add(fmt::format("extra.{}", i), "BF16", {1});
  c.erase("model.norm.weight");
  const TemporaryFolder folder;
  c.write(folder);
  const std::vector<Problem> problems = problems_in(folder.path());
  EXPECT_EQ(problems.size(), 26U);
  const std::string report = Error(problems).what();
  size_t listed = 0;
  for (size_t at = 0; (at = report.find(": extra.", at)) != std::string::npos; ++at) ++listed;
  EXPECT_EQ(listed, 20U);
  EXPECT_NE(report.find("... and 5 more of kind unexpected_tensor"), std::string::npos) << report;
  EXPECT_NE(report.find("model.norm.weight is missing"), std::string::npos) << report;
}

/// Whatever is done to a checkpoint between looking at it and loading it.
TEST_P(Golden, ThatShrinksAfterItWasMappedIsAnIoError) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  for (const std::string& file : c.files())
    c.edit_header(file, [](std::string&) {});  // files of its own, no links
  for (const double left : {0.999, 0.5, 0.0}) {
    const TemporaryFolder folder;
    c.write(folder);
    const Inspection inspection = inspect_model(read_model_files(folder.path()), Precision::kNative);
    ASSERT_TRUE(inspection.problems.empty());
    const std::string file = c.files().back();
    const auto size = static_cast<double>(std::filesystem::file_size(folder / file));
    std::filesystem::resize_file(folder / file, static_cast<uintmax_t>(size * left));
    const ModelPlan& plan = *inspection.plan;
    for (const std::vector<Problem>& problems :
         {problems_of([&] { execute(plan.load, plan.parameters, *inspection.catalog, 2); }),
          problems_of([&] { (void)verify(plan.load, *inspection.catalog, 2); })}) {
      ASSERT_EQ(summary(problems), "io_error") << left;
      EXPECT_EQ(problems.front().file, file);
      expect_whole(problems);
    }
  }
}

TEST_P(Golden, ThatShrinksWhileItIsLoadedIsAnIoError) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  for (const std::string& file : c.files()) c.edit_header(file, [](std::string&) {});
  const TemporaryFolder folder;
  c.write(folder);
  const Inspection inspection = inspect_model(read_model_files(folder.path()), Precision::kNative);
  ASSERT_TRUE(inspection.problems.empty());
  const std::string file = c.files().back();
  // After the last byte: earlier, a look between the steps may notice it.
  const auto shrink = [&](uint64_t done, uint64_t total) {
    if (done == total) std::filesystem::resize_file(folder / file, 0);
  };
  const ModelPlan& plan = *inspection.plan;
  const auto problems =
      problems_of([&] { execute(plan.load, plan.parameters, *inspection.catalog, 2, shrink); });
  ASSERT_EQ(summary(problems), "io_error");
  EXPECT_EQ(problems.front().file, file);
}

}  // namespace
}  // namespace fulgur
