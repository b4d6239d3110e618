// The table of defects, crossed with every golden: each is refused for what it is, in a whole message, and
// for nothing else.

#include "defects.h"

#include <gtest/gtest.h>

#include "checkpoint/shard_index.h"
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

/// A scale of an expert that the checkpoint can't do without.
std::optional<std::string> needed_scale(const GoldenCheckpoint& c) {
  return c.first_that("model.layers.*.mlp.experts.*.up_proj.**", [](const TestTensor& tensor) {
    return is_scale(tensor.name) && !is_unneeded(tensor.name);
  });
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
  if (const auto scale = needed_scale(c)) {
    const std::string module = module_of(*scale);
    c.erase(*scale);
    expect(ErrorKind::kMissingScale, module + (c.has(module + "weight") ? "weight" : "weight_packed"));
  }
  expect_refused(c, {.problems = expected, .words = {}});
}

/// The file that holds neither of the others' tensors: nothing of it can be read.
std::string make_unreadable(GoldenCheckpoint& c) {
  c.divide();
  const std::string norm = c.file_of("model.norm.weight");
  for (const std::string& file : c.files()) {
    if (file == norm) continue;
    c.edit_header(file, [](std::string& header) { header = "{"; });
    return file;
  }
  return {};
}

TEST_P(Golden, WithOneUnreadableShardHasTheDefectsOfTheOthersReportedAndNothingElse) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  const std::string unreadable = make_unreadable(c);
  ASSERT_NE(unreadable, "");
  c.store_as("model.norm.weight", "BF16", {1});
  c.add("extra.in.the.last.shard", "BF16", {1});
  const bool last_is_read = c.file_of("extra.in.the.last.shard") != unreadable;
  std::vector<std::string> expected = {problem(ErrorKind::kBadHeader),
                                       problem(ErrorKind::kShapeMismatch, "model.norm.weight")};
  if (last_is_read) expected.push_back(problem(ErrorKind::kUnexpectedTensor, "extra.in.the.last.shard"));
  expect_refused(c, {.problems = expected, .words = {}});
  c.remove_index();  // what the unreadable shard holds is anyone's guess then
  expect_refused(c, {.problems = expected, .words = {}});
}

TEST_P(Golden, WithOneUnreadableShardLacksWhatTheIndexPlacesNowhere) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  ASSERT_NE(make_unreadable(c), "");
  c.erase("model.norm.weight");
  expect_refused(c, {.problems = {problem(ErrorKind::kBadHeader),
                                  problem(ErrorKind::kMissingTensor, "model.norm.weight")},
                     .words = {}});
  c.remove_index();  // it may be in the unreadable shard
  expect_refused(c, {.problems = {problem(ErrorKind::kBadHeader)}, .words = {}});
}

TEST_P(Golden, WithoutAConfigHasTheDefectsOfItsHeadersReported) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  ASSERT_NE(make_unreadable(c), "");
  c.store_as("model.norm.weight", "BF16", {1});  // who knows
  c.afterwards([](const TemporaryFolder& folder) { std::filesystem::remove(folder / "config.json"); });
  expect_refused(c,
                 {.problems = {problem(ErrorKind::kIoError), problem(ErrorKind::kBadHeader)}, .words = {}});
}

TEST_P(Golden, WithAnIndexThatCantBeReadHasTheDefectsOfItsShardsReported) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  ASSERT_NE(make_unreadable(c), "");
  c.store_as("model.norm.weight", "BF16", {1});
  c.erase("lm_head.weight");  // it may be in the unreadable shard
  c.afterwards([](const TemporaryFolder& folder) { write_bytes(folder / kIndexFile, "{"); });
  expect_refused(c, {.problems = {problem(ErrorKind::kBadIndex), problem(ErrorKind::kBadHeader),
                                  problem(ErrorKind::kShapeMismatch, "model.norm.weight")},
                     .words = {}});
}

/// Modules that may be quantized can be stored in any way then.
TEST_P(Golden, WithAQuantizationThatIsNotKnownHasItsOtherDefectsReportedAndNothingThatMayFollow) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  c.set("quantization_config", R"({"quant_method": "awq"})");
  c.store_as("model.norm.weight", "BF16", {1});
  c.store_as("model.layers.0.self_attn.o_proj.weight", "BF16", {3, 5});
  c.add("model.layers.0.mywk.weight", "BF16", {1});
  const std::string packed = *c.first_that("model.layers.*.mlp.experts.*.up_proj.*",
                                           [](const TestTensor& tensor) { return !is_scale(tensor.name); });
  c.rename(packed, module_of(packed) + "qweight");
  c.add(module_of(packed) + "qzeros", "I32", {1});
  expect_refused(c,
                 {.problems = {problem(ErrorKind::kUnsupported, "quantization_config.quant_method"),
                               problem(ErrorKind::kShapeMismatch, "model.norm.weight"),
                               problem(ErrorKind::kShapeMismatch, "model.layers.0.self_attn.o_proj.weight"),
                               problem(ErrorKind::kUnexpectedTensor, "model.layers.0.mywk.weight")},
                  .words = {}});
}

/// However it is stored, it would be there under some name.
TEST_P(Golden, WithAQuantizationThatIsNotKnownHasHalfAPairReported) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  const auto half = c.first("model.layers.*.self_attn.indexer.weights_proj.weight");
  if (!half) return;  // no indexer, or a fused one
  c.set("quantization_config", R"({"quant_method": "awq"})");
  c.erase(*half);
  expect_refused(c, {.problems = {problem(ErrorKind::kUnsupported, "quantization_config.quant_method"),
                                  problem(ErrorKind::kMissingTensor, *half)},
                     .words = {"its other half is there"}});
}

/// Both say the same: the weight is what is wanted.
TEST_P(Golden, WithoutAWeightButItsScaleIsToldToFetchTheWeight) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  const auto scale = c.first("model.layers.*.self_attn.o_proj.weight_scale_inv");
  if (!scale) return;  // not in FP8
  const std::string weight = module_of(*scale) + "weight";
  c.erase(weight);
  expect_refused(
      c, {.problems = {problem(ErrorKind::kMissingTensor, weight), problem(ErrorKind::kOrphanScale, *scale)},
          .words = {"fetch the shard that holds the weight"}});
}

TEST_P(Golden, WithADamagedEntryHasTheDefectsOfOtherTensorsReported) {
  GoldenCheckpoint c = GoldenCheckpoint::read(GetParam());
  c.divide();
  c.erase("model.norm.weight");
  const std::string output = *c.first("model.layers.0.self_attn.o_proj.weight");
  const std::vector<int64_t> shape = c.at(output).shape;
  c.edit_header(c.file_of(output), [=](std::string& header) {  // a shape that its byte range contradicts
    const size_t entry = header.find(fmt::format("\"{}\"", output));
    const size_t dims = header.find('[', header.find("\"shape\"", entry));
    header.replace(dims, 1, "[7,");
  });
  expect_refused(c, {.problems = {problem(ErrorKind::kBadHeader, output),
                                  problem(ErrorKind::kMissingTensor, "model.norm.weight")},
                     .words = {}});
}

/// Of one module.
TEST(Module, OfAnotherShapeThatLacksItsScaleIsRefusedForBoth) {
  for (const char* golden : {"v32-fp8", "glm-fp8", "v3-nvfp4", "glm-nvfp4-ct"}) {
    SCOPED_TRACE(golden);
    GoldenCheckpoint c = GoldenCheckpoint::read(golden);
    const std::string scale = *needed_scale(c);
    const std::string module = module_of(scale);
    const std::string weight = module + (c.has(module + "weight") ? "weight" : "weight_packed");
    c.store_as(weight, c.at(weight).dtype, {1, 16});
    c.erase(scale);
    expect_refused(c, {.problems = {problem(ErrorKind::kShapeMismatch, weight),
                                    problem(ErrorKind::kMissingScale, weight)},
                       .words = {}});
  }
}

TEST(Module, HalfOfAPairThatLacksItsScaleIsRefusedForBoth) {
  for (const char* golden : {"v32-fp8", "glm-fp8"}) {
    SCOPED_TRACE(golden);
    const std::string wk =
        *GoldenCheckpoint::read(golden).first("model.layers.*.self_attn.indexer.wk.weight");
    const std::string indexer = wk.substr(0, wk.size() - std::string("wk.weight").size());
    GoldenCheckpoint half = GoldenCheckpoint::read(golden);
    half.erase(wk + "_scale_inv");
    half.erase(indexer + "weights_proj.weight");
    expect_refused(half, {.problems = {problem(ErrorKind::kMissingScale, wk),
                                       problem(ErrorKind::kMissingTensor, indexer + "weights_proj.weight")},
                          .words = {}});
    GoldenCheckpoint both = GoldenCheckpoint::read(golden);
    both.erase(wk + "_scale_inv");
    const std::vector<int64_t> shape = both.at(wk).shape;
    const int64_t heads = both.at(indexer + "weights_proj.weight").shape.front();
    both.add(indexer + "wk_weights_proj.weight", "BF16", {shape.front() + heads, shape.back()});
    expect_refused(both, {.problems = {problem(ErrorKind::kMissingScale, wk),
                                       problem(ErrorKind::kConflictingTensors, wk)},
                          .words = {}});
  }
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
