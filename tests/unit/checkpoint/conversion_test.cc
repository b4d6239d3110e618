// A conversion of every published form, and of every two that a fused projection can be made of: what it
// writes resolves, and stands for the same values.

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <tuple>

#include "base/pending_folder.h"
#include "checkpoint/conversion_plan.h"
#include "checkpoint/convert_module.h"
#include "checkpoint/shard_writer.h"
#include "stored_forms.h"

namespace fulgur {
namespace {

constexpr int kThreads = 2;
constexpr int64_t kCols = 144;                                       // a ragged block
const std::string kExpert = "model.layers.0.mlp.experts.0.up_proj";  // which every recipe quantizes
const std::string kIndexer = "model.layers.0.self_attn.indexer.";

Parameter parameter(std::vector<std::vector<Part>> spellings, int64_t rows) {
  return {.name = "p",
          .rows = rows,
          .cols = kCols,
          .spellings = std::move(spellings),
          .held_as = {WeightForm::kF32},
          .quantizable = true};
}
Part part(const std::string& module, int64_t rows) {
  return {module + ".weight", {{rows, "num_rows"}, {kCols, "num_cols"}}};
}

class Conversion : public ::testing::Test {
 protected:
  Catalog catalog(const std::vector<TestTensor>& tensors) {
    std::filesystem::create_directories(folder_ / "source");
    write_bytes(folder_ / "source/model.safetensors", good_safetensors(tensors));
    return read_catalog(folder_ / "source");
  }
  /// Converts the one parameter; its tensors and values (in f32) afterwards.
  std::vector<float> convert(const std::vector<Parameter>& parameters, const Catalog& source,
                             const Fp8Scheme& scheme, const ConversionTarget& target) {
    const LoadPlan plan = resolve(parameters, {}, source, scheme);
    EXPECT_EQ(summary(plan.problems), "");
    const auto modules = plan_conversion(parameters, plan, source, target).modules;
    ModuleConverter converter(source, kThreads);
    std::vector<TestTensor> tensors;
    for (const ConvertedModule& module : modules) {
      const size_t first = tensors.size();
      for (const ConvertedTensor& tensor : module.tensors)
        tensors.push_back({tensor.name, tensor.dtype, tensor.shape, std::string(tensor.bytes, '?')});
      converter.convert(module, [&](size_t tensor, uint64_t offset, std::span<const std::byte> bytes) {
        tensors[first + tensor].data.replace(offset, bytes.size(),
                                             reinterpret_cast<const char*>(bytes.data()), bytes.size());
      });
    }
    std::filesystem::create_directories(folder_ / "out");
    write_bytes(folder_ / "out/model.safetensors", good_safetensors(tensors));
    written_ = read_catalog(folder_ / "out");
    const LoadPlan again = resolve(parameters, {}, written_, target.recipe ? Fp8Scheme{} : scheme);
    EXPECT_EQ(summary(again.problems), "");
    form_ = form_text(again.parameters[0].sources[0]);
    const LoadedWeights loaded = execute(again, parameters, written_, kThreads);
    const auto* values = static_cast<const float*>(loaded.weights[0].data);
    return {values, values + loaded.weights[0].rows * loaded.weights[0].cols};
  }
  void expect_same_bytes(const Catalog& source) const {
    ASSERT_EQ(written_.entries.size(), source.entries.size());
    for (const CatalogEntry& entry : source.entries) {
      const CatalogEntry* same = written_.find(entry.name);
      ASSERT_NE(same, nullptr) << entry.name;
      EXPECT_EQ(same->dtype_name, entry.dtype_name) << entry.name;
      EXPECT_EQ(same->shape, entry.shape) << entry.name;
      EXPECT_TRUE(std::ranges::equal(written_.bytes(*same), source.bytes(entry))) << entry.name;
    }
  }

  TemporaryFolder folder_;
  Catalog written_;
  std::string form_;  // of the parameter's first module, as written
};

/// `error` bounds how far a value may be off, given it and the largest of its matrix.
template <typename Error>
void expect_near(const std::vector<float>& values, const std::vector<double>& wanted, Error error) {
  ASSERT_EQ(values.size(), wanted.size());
  double largest = 0;
  for (const double value : wanted) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_LE(std::abs(values[i] - wanted[i]), error(std::abs(wanted[i]), largest)) << i;
}
constexpr double kF32 = 0x1p-24;  // one rounding
const auto in_f32 = [](double value, double) { return value * kF32; };
const auto in_bf16 = [](double value, double) { return value * 0x1p-8; };
// Half a step of 3 bits after the point, or of the least normal code; a block's largest code is above 224.
const auto in_e4m3 = [](double value, double largest) { return std::max(value * 0x1p-4, largest * 0x1p-17); };
// Half the largest step of e2m1, 2 of 6, of the group's largest value; its scale is off by 2^-4 at most, or
// the least of all.
const auto in_e2m1 = [](double, double largest) { return largest / 6 * (1 + 0x1p-4); };

class ConversionOf : public Conversion, public ::testing::WithParamInterface<std::string> {
 protected:
  static constexpr int64_t kRows = 133;
  const StoredForm stored_ = stored_as(GetParam(), kExpert, kRows, kCols);
  const std::vector<Parameter> parameters_ = {parameter({{part(kExpert, kRows)}}, kRows)};
};

INSTANTIATE_TEST_SUITE_P(Each, ConversionOf, ::testing::ValuesIn(kFormNames),
                         [](const auto& info) { return info.param; });

TEST_P(ConversionOf, KeepsEveryByteWithoutARecipe) {
  const Catalog source = catalog(stored_.tensors);
  expect_near(convert(parameters_, source, stored_.fp8, {}), stored_.values, in_f32);
  expect_same_bytes(source);
}

TEST_P(ConversionOf, StandsForTheSameValuesInEveryForm) {
  const Catalog source = catalog(stored_.tensors);
  const auto converted = [&](Recipe recipe) {
    return convert(parameters_, source, stored_.fp8, {.recipe = recipe});
  };
  const std::vector<float> bf16 = converted({.form = TargetForm::kBf16});
  EXPECT_EQ(form_, "bf16");
  for (size_t i = 0; i < bf16.size(); ++i) ASSERT_EQ(bf16[i], nearest_bf16(stored_.values[i])) << i;
  for (const BlockScales scales : {BlockScales::kF32, BlockScales::kF32Pow2, BlockScales::kE8m0}) {
    const std::vector<float> fp8 = converted({.form = TargetForm::kFp8Block, .scales = scales});
    EXPECT_EQ(form_, "fp8-block 128x128");
    const bool kept = GetParam().starts_with("fp8_block") &&
                      (scales == BlockScales::kF32 || GetParam().ends_with("m0_scales") ||
                       GetParam().ends_with("u8_scales"));
    kept ? expect_near(fp8, stored_.values, in_f32) : expect_near(fp8, stored_.values, in_e4m3);
  }
  for (const TargetForm form : {TargetForm::kNvfp4Modelopt, TargetForm::kNvfp4Ct}) {
    const std::vector<float> nvfp4 = converted({.form = form});
    EXPECT_EQ(form_, name(form));
    if (GetParam().starts_with("nvfp4")) {  // the reciprocal of a factor is rounded once more
      expect_near(nvfp4, stored_.values, [](double value, double) { return 2 * value * kF32; });
    } else {
      expect_near(nvfp4, stored_.values, in_e2m1);
    }
  }
}

/// The number of rows of the first half: with or without block rows of its own.
class Projection : public Conversion, public ::testing::WithParamInterface<std::tuple<std::string, int64_t>> {
 protected:
  static constexpr int64_t kHeads = 5;
  const std::string form_name_ = std::get<0>(GetParam());
  const int64_t dim_ = std::get<1>(GetParam());
  const std::vector<Parameter> parameters_ = {
      parameter({{part(kIndexer + "wk", dim_), part(kIndexer + "weights_proj", kHeads)},
                 {part(kIndexer + "wk_weights_proj", dim_ + kHeads)}},
                dim_ + kHeads)};
};

INSTANTIATE_TEST_SUITE_P(Each, Projection,
                         ::testing::Combine(::testing::ValuesIn(kFormNames), ::testing::Values(64, 128)),
                         [](const auto& info) {
                           return std::get<0>(info.param) + "_" + std::to_string(std::get<1>(info.param));
                         });

TEST_P(Projection, IsFusedOfTheSameValuesWhateverItsOtherHalfIs) {
  for (const std::string& other : {std::string("bf16"), form_name_}) {
    StoredForm wk = stored_as(form_name_, kIndexer + "wk", dim_, kCols, 1);
    const StoredForm heads = stored_as(other, kIndexer + "weights_proj", kHeads, kCols, 2);
    wk.tensors.insert(wk.tensors.end(), heads.tensors.begin(), heads.tensors.end());
    wk.values.insert(wk.values.end(), heads.values.begin(), heads.values.end());
    const auto fused = convert(parameters_, catalog(wk.tensors), wk.fp8, {.spelling = Spelling::kFused});
    EXPECT_NE(written_.find(kIndexer + "wk_weights_proj.weight"), nullptr);
    const bool exact = form_ != "bf16" || form_name_ == "bf16";
    exact ? expect_near(fused, wk.values, in_f32) : expect_near(fused, wk.values, in_bf16);
    const auto again = convert(parameters_, catalog(wk.tensors), wk.fp8, {.spelling = Spelling::kSeparate});
    expect_near(again, wk.values, in_f32);
  }
}

TEST_P(Projection, IsTakenApartKeepingTheCodesOfItsFirstHalf) {
  const StoredForm whole = stored_as(form_name_, kIndexer + "wk_weights_proj", dim_ + kHeads, kCols);
  const auto values =
      convert(parameters_, catalog(whole.tensors), whole.fp8, {.spelling = Spelling::kSeparate});
  const auto first = static_cast<ptrdiff_t>(dim_ * kCols);
  expect_near({values.begin(), values.begin() + first}, {whole.values.begin(), whole.values.begin() + first},
              in_f32);
  const bool shared_block = form_name_.starts_with("fp8_block") && dim_ % kFp8Block != 0;
  const std::vector<float> heads(values.begin() + first, values.end());
  const std::vector<double> wanted(whole.values.begin() + first, whole.values.end());
  shared_block ? expect_near(heads, wanted, in_bf16) : expect_near(heads, wanted, in_f32);
  EXPECT_EQ(written_.find(kIndexer + "wk_weights_proj.weight"), nullptr);
}

TEST_F(Conversion, CarriesOverWhatNoParameterUses) {
  StoredForm expert = stored_as("bf16", kExpert, 16, kCols);
  expert.tensors.push_back({"model.layers.0.rotary_emb.inv_freq", "F64", {2}, std::string(16, 'x')});
  expert.tensors.push_back({"model.layers.9.odd", "F4_NEW", {3}, "xyz"});
  const Catalog source = catalog(expert.tensors);
  const std::vector<Parameter> parameters = {parameter({{part(kExpert, 16)}}, 16)};
  const std::vector<IgnoreRule> rules = {{"rest", "model.layers.*.odd"}, {"rotary", "**.inv_freq"}};
  const LoadPlan plan = resolve(parameters, rules, source);
  ASSERT_EQ(summary(plan.problems), "");
  PendingFolder out(folder_ / "out");
  ModuleConverter converter(source, kThreads);
  write_shards(out, plan_conversion(parameters, plan, source, {}).modules, 1000000, converter, nullptr);
  out.commit();
  written_ = read_catalog(folder_ / "out");
  expect_same_bytes(source);
}

TEST_F(Conversion, NamesAValueThatIsNotFinite) {
  StoredForm expert = stored_as("f32", kExpert, 200, kCols);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int64_t row : {150, 199}) {
    expert.tensors[0].data.replace(static_cast<size_t>(row * kCols + 7) * 4, 4,
                                   reinterpret_cast<const char*>(&infinity), 4);
  }
  const Catalog source = catalog(expert.tensors);
  const std::vector<Parameter> parameters = {parameter({{part(kExpert, 200)}}, 200)};
  const LoadPlan plan = resolve(parameters, {}, source);
  for (const TargetForm form : kTargetForms) {
    ModuleConverter converter(source, kThreads);
    const auto modules = plan_conversion(parameters, plan, source, {.recipe = Recipe{.form = form}}).modules;
    const auto problems = problems_of(
        [&] { converter.convert(modules[0], [](size_t, uint64_t, std::span<const std::byte>) {}); });
    EXPECT_EQ(summary(problems), "bad_value " + kExpert + ".weight");
    EXPECT_NE(problems.at(0).message.find("[150, 7]"), std::string::npos) << problems[0].message;
  }
}

TEST(ShardSize, ThatMakesMoreFilesThanAnIndexMayListIsRefusedWithOneThatDoesNot) {
  std::vector<ConvertedModule> modules(6001);
  for (size_t i = 0; i < modules.size(); ++i)
    modules[i].tensors.push_back({.name = fmt::format("{}", i), .bytes = 1000 + i % 7});
  check_shard_size(modules, 1'000'000);
  check_shard_size(std::span(modules).first(2000), 1);
  for (const uint64_t too_small : {uint64_t{1}, uint64_t{1005}, uint64_t{2412}}) {
    const auto problems = problems_of([&] { check_shard_size(modules, too_small); });
    ASSERT_EQ(summary(problems), "bad_request") << too_small;
    EXPECT_EQ(problems.front().todo, "give --shard-size 5KB, or more");
    EXPECT_NE(problems.front().message.find(too_small == 2412 ? "3001" : "6001"), std::string::npos);
  }
  check_shard_size(modules, 5000);
}

}  // namespace
}  // namespace fulgur
