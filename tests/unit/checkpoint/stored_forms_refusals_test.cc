// What only resembles a published way to store a module's weight (docs/spec/checkpoints.md, sections 3 and
// 4).

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "form_fixture.h"

namespace fulgur {
namespace {

/// What is changed in the tensors of a good form, and what must then be said.
struct Refusal {
  std::string what;
  std::string form;
  std::function<void(std::vector<TestTensor>&, Fp8Scheme&)> change;
  std::string problems;
  std::vector<std::string> said;  // in message, expected or found
};

TestTensor& named(std::vector<TestTensor>& tensors, const std::string& name) {
  return *std::find_if(tensors.begin(), tensors.end(), [&](const TestTensor& t) { return t.name == name; });
}

TestTensor zeros(const std::string& name, const std::string& dtype, std::vector<int64_t> shape) {
  size_t bytes = size_bytes(parse_dtype(dtype).value());
  for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
  return {name, dtype, std::move(shape), std::string(bytes, '\0')};
}

TEST_F(FormTest, WhatOnlyResemblesAFormIsRefusedByName) {
  const auto add = [](TestTensor tensor) {
    return [tensor](std::vector<TestTensor>& tensors, Fp8Scheme&) { tensors.push_back(tensor); };
  };
  const auto replace = [](TestTensor tensor) {
    return [tensor](std::vector<TestTensor>& tensors, Fp8Scheme&) { named(tensors, tensor.name) = tensor; };
  };
  const Refusal refusals[] = {
      {"both spellings of a block scale",
       "fp8_block",
       add(zeros("m.weight_scale", "F32", {2, 3})),
       "conflicting_tensors m.weight_scale_inv",
       {"m.weight_scale_inv", "m.weight_scale"}},
      {"packed beside plain",
       "bf16",
       add(zeros("m.weight_packed", "U8", {192, 160})),
       "conflicting_tensors m.weight",
       {"m.weight_packed"}},
      {"packed beside FP8",
       "fp8_block",
       add(zeros("m.weight_packed", "U8", {192, 160})),
       "conflicting_tensors m.weight",
       {"m.weight_packed"}},
      {"a scale beside bf16",
       "bf16",
       add(zeros("m.weight_scale_inv", "F32", {2, 3})),
       "orphan_scale m.weight_scale_inv",
       {"BF16 [192, 320]"}},
      {"an input scale beside bf16",
       "bf16",
       add(zeros("m.input_scale", "F32", {})),
       "orphan_scale m.input_scale",
       {}},
      {"a scale of NVFP4 beside FP8",
       "fp8_block",
       add(zeros("m.weight_scale_2", "F32", {})),
       "orphan_scale m.weight_scale_2",
       {"F8_E4M3"}},
      {"a divisor beside modelopt's weight",
       "nvfp4_modelopt",
       add(zeros("m.weight_global_scale", "F32", {1})),
       "orphan_scale m.weight_global_scale",
       {}},
      {"a block scale beside NVFP4",
       "nvfp4_ct",
       add(zeros("m.weight_scale_inv", "F32", {2, 3})),
       "orphan_scale m.weight_scale_inv",
       {}},
      {"a scale of a module that is not there",
       "bf16",
       add(zeros("n.weight_scale_inv", "F32", {2, 3})),
       "orphan_scale n.weight_scale_inv",
       {"no weight"}},
      {"a damaged grid of one",
       "fp8_block",
       replace(zeros("m.weight_scale_inv", "F32", {1, 1})),
       "shape_mismatch m.weight_scale_inv",
       {"[2 (ceil(num_rows / 128)), 3 (ceil(num_cols / 128))]", "[1, 1]"}},
      {"a grid without dimensions",
       "fp8_block",
       replace(zeros("m.weight_scale_inv", "F32", {})),
       "shape_mismatch m.weight_scale_inv",
       {"[]"}},
      {"a grid of rows",
       "fp8_block",
       replace(zeros("m.weight_scale_inv", "F32", {192, 1})),
       "shape_mismatch m.weight_scale_inv",
       {"[192, 1]"}},
      {"a transposed grid",
       "fp8_block",
       replace(zeros("m.weight_scale_inv", "F32", {3, 2})),
       "shape_mismatch m.weight_scale_inv",
       {"[3, 2]"}},
      {"a grid rounded down",
       "fp8_block",
       replace(zeros("m.weight_scale_inv", "F32", {1, 2})),
       "shape_mismatch m.weight_scale_inv",
       {"[1, 2]"}},
      {"a block grid where rows are declared",
       "fp8_row",
       replace(zeros("m.weight_scale", "F32", {2, 3})),
       "shape_mismatch m.weight_scale",
       {"[192 (num_rows), 1]", "[2, 3]"}},
      {"a scale a row where one a tensor is declared",
       "fp8_tensor_scalar",
       replace(zeros("m.weight_scale", "F32", {192, 1})),
       "shape_mismatch m.weight_scale",
       {"[] or [1]"}},
      {"rows without a second dimension",
       "fp8_row",
       replace(zeros("m.weight_scale", "F32", {192})),
       "shape_mismatch m.weight_scale",
       {"[192]"}},
      {"U8 scales that nothing declares to be E8M0",
       "fp8_block_u8_scales",
       [](std::vector<TestTensor>&, Fp8Scheme& fp8) { fp8.u8_scales = false; },
       "unknown_dtype m.weight_scale_inv",
       {"scale_fmt", "U8"}},
      {"f16 block scales",
       "fp8_block",
       replace(zeros("m.weight_scale_inv", "F16", {2, 3})),
       "unknown_dtype m.weight_scale_inv",
       {"F16", "F32 or BF16 or F8_E8M0"}},
      {"e4m3 block scales",
       "fp8_block",
       replace(zeros("m.weight_scale_inv", "F8_E4M3", {2, 3})),
       "unknown_dtype m.weight_scale_inv",
       {"F8_E4M3"}},
      {"f32 group scales",
       "nvfp4_modelopt",
       replace(zeros("m.weight_scale", "F32", {192, 20})),
       "unknown_dtype m.weight_scale",
       {"F8_E4M3"}},
      {"groups of 32",
       "nvfp4_modelopt",
       replace(zeros("m.weight_scale", "F8_E4M3", {192, 10})),
       "shape_mismatch m.weight_scale",
       {"20 (num_cols / 16)", "[192, 10]"}},
      {"a factor for each row",
       "nvfp4_modelopt",
       replace(zeros("m.weight_scale_2", "F32", {192})),
       "shape_mismatch m.weight_scale_2",
       {"[] or [1]"}},
      {"a bf16 factor",
       "nvfp4_modelopt",
       replace(zeros("m.weight_scale_2", "BF16", {})),
       "unknown_dtype m.weight_scale_2",
       {"BF16"}},
      {"codes that are not packed",
       "nvfp4_ct",
       replace(zeros("m.weight_packed", "U8", {192, 320})),
       "shape_mismatch m.weight_packed",
       {"160 (num_cols / 2)", "[192, 320]"}},
      {"signed codes",
       "nvfp4_ct",
       replace(zeros("m.weight_packed", "I8", {192, 160})),
       "unknown_dtype m.weight_packed",
       {"I8"}},
      {"FP8 codes under the packed name",
       "nvfp4_ct",
       replace(zeros("m.weight_packed", "F8_E4M3", {192, 160})),
       "unknown_dtype m.weight_packed",
       {"F8_E4M3"}},
      {"e5m2 codes",
       "fp8_block",
       replace(zeros("m.weight", "F8_E5M2", {192, 320})),
       "unknown_dtype m.weight",
       {"F8_E5M2"}},
      {"a scale whose name has a letter more",
       "fp8_block",
       add(zeros("m.weight_scale_invs", "F32", {2, 3})),
       "unexpected_tensor m.weight_scale_invs",
       {}},
  };
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.what);
    StoredForm stored = stored_as(refusal.form, "m", kRows, kCols);
    refusal.change(stored.tensors, stored.fp8);
    const auto problems = resolve(std::vector{matrix("m")}, {}, catalog(stored.tensors), stored.fp8).problems;
    ASSERT_EQ(summary(problems), refusal.problems);
    const Problem& problem = problems[0];
    for (const std::string& text : refusal.said)
      EXPECT_NE((problem.message + problem.expected + problem.found).find(text), std::string::npos)
          << text << " in: " << describe(problem);
    EXPECT_TRUE(problem.message.ends_with(".")) << problem.message;
    EXPECT_EQ(problem.file, "model.safetensors");
  }
}

TEST_F(FormTest, NvfP4NeedsAWidthThatItsGroupsFill) {
  const std::vector<TestTensor> tensors = {zeros("m.weight", "U8", {4, 12}),
                                           zeros("m.weight_scale", "F8_E4M3", {4, 2}),
                                           zeros("m.weight_scale_2", "F32", {})};
  const auto problems = resolve(std::vector{matrix("m", 4, 24)}, {}, catalog(tensors)).problems;
  ASSERT_EQ(summary(problems), "shape_mismatch m.weight");
  EXPECT_NE(problems[0].expected.find("a multiple of 16"), std::string::npos);
}

TEST_F(FormTest, BothScalesThatAnNvfp4WeightMissesAreNamedTogether) {
  const std::vector<TestTensor> tensors = {zeros("m.weight", "U8", {192, 160})};
  const auto problems = resolve(std::vector{matrix("m")}, {}, catalog(tensors)).problems;
  ASSERT_EQ(summary(problems), "missing_scale m.weight");
  for (const char* name : {"m.weight is U8", "m.weight_scale ", "m.weight_scale_2"})
    EXPECT_NE(problems[0].message.find(name), std::string::npos) << problems[0].message;
}

/// A scale's value, where it lies and what is said of it.
struct BadScale {
  std::string form;
  std::string tensor;
  size_t at;  // value, counted from 0
  std::string bytes;
  std::string index;
  std::string value;
};

template <typename T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

TEST_F(FormTest, ABadScaleIsNamedWithItsIndexAndValue) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const BadScale cases[] = {
      {"fp8_block", "weight_scale_inv", 4, bytes_of(kNan), "[1, 1]", "nan"},
      {"fp8_block", "weight_scale_inv", 5, bytes_of(kInfinity), "[1, 2]", "inf"},
      {"fp8_block", "weight_scale_inv", 0, bytes_of(-0.5F), "[0, 0]", "-0.5"},
      {"fp8_block_bf16_scales", "weight_scale_inv", 2, bytes_of(uint16_t{0x7fc0}), "[0, 2]", "nan"},
      {"fp8_block_bf16_scales", "weight_scale_inv", 2, bytes_of(uint16_t{0xbf80}), "[0, 2]", "-1"},
      {"fp8_block_e8m0_scales", "weight_scale_inv", 3, "\xff", "[1, 0]", "nan"},
      {"fp8_block_u8_scales", "weight_scale_inv", 3, "\xff", "[1, 0]", "nan"},
      {"fp8_row", "weight_scale", 191, bytes_of(-kInfinity), "[191, 0]", "-inf"},
      {"fp8_tensor_scalar", "weight_scale", 0, bytes_of(kNan), "[0]", "nan"},
      {"fp8_tensor_of_one", "weight_scale", 0, bytes_of(-2.0F), "[0]", "-2"},
      {"nvfp4_modelopt", "weight_scale", 3839, "\x7f", "[191, 19]", "nan"},
      {"nvfp4_modelopt", "weight_scale", 21, "\xff", "[1, 1]", "nan"},
      {"nvfp4_ct", "weight_scale", 20, "\xb8", "[1, 0]", "-1"},
      {"nvfp4_modelopt", "weight_scale_2", 0, bytes_of(0.0F), "[0]", "0"},
      {"nvfp4_modelopt", "weight_scale_2", 0, bytes_of(kNan), "[0]", "nan"},
      {"nvfp4_ct", "weight_global_scale", 0, bytes_of(0.0F), "[0]", "0"},
      {"nvfp4_ct", "weight_global_scale", 0, bytes_of(-0.0F), "[0]", "-0"},
      {"nvfp4_ct", "weight_global_scale", 0, bytes_of(-1.0F), "[0]", "-1"},
      {"nvfp4_ct_scalar", "weight_global_scale", 0, bytes_of(kInfinity), "[0]", "inf"},
  };
  for (const BadScale& bad : cases) {
    for (const WeightForm held : {WeightForm::kFp8, WeightForm::kBf16}) {
      SCOPED_TRACE(bad.form + " " + bad.tensor + bad.index);
      StoredForm stored = stored_as(bad.form, "m", kRows, kCols);
      named(stored.tensors, "m." + bad.tensor)
          .data.replace(bad.at * bad.bytes.size(), bad.bytes.size(), bad.bytes);
      const std::vector<Parameter> parameters = {held == WeightForm::kBf16 ? matrix("m", kRows, kCols, {held})
                                                                           : matrix("m")};
      const Catalog read = catalog(stored.tensors);
      const LoadPlan plan = resolve(parameters, {}, read, stored.fp8);
      ASSERT_EQ(summary(plan.problems), "");
      const auto problems = problems_of([&] { execute(plan, parameters, read, kThreads); });
      ASSERT_EQ(summary(problems), "bad_scale m." + bad.tensor);
      EXPECT_NE(problems[0].message.find("m." + bad.tensor + bad.index + " is " + bad.value),
                std::string::npos)
          << problems[0].message;
      EXPECT_EQ(problems[0].found, bad.value + " at " + bad.index);
    }
  }
}

TEST_F(FormTest, AZeroBlockScaleIsNoError) {
  for (const std::string form : {"fp8_block", "nvfp4_modelopt"}) {
    StoredForm stored = stored_as(form, "m", kRows, kCols);
    const std::string scale = form == "fp8_block" ? "m.weight_scale_inv" : "m.weight_scale";
    named(stored.tensors, scale).data.replace(0, 4, 4, '\0');
    const std::vector<Parameter> parameters = {matrix("m")};
    const Catalog read = catalog(stored.tensors);
    EXPECT_NO_THROW(execute(resolve(parameters, {}, read), parameters, read, kThreads));
  }
}

TEST_F(FormTest, AllBadScalesAreReportedTogetherAndThoseOfOneTensorOnce) {
  std::vector<TestTensor> tensors;
  std::vector<Parameter> parameters;
  for (const std::string module : {"a", "b", "c"}) {
    StoredForm stored = stored_as("fp8_block", module, kRows, kCols);
    if (module != "b") named(stored.tensors, module + ".weight_scale_inv").data = std::string(24, '\xff');
    tensors.insert(tensors.end(), stored.tensors.begin(), stored.tensors.end());
    parameters.push_back(matrix(module));
  }
  const Catalog read = catalog(tensors);
  const LoadPlan plan = resolve(parameters, {}, read);
  const auto problems = problems_of([&] { execute(plan, parameters, read, kThreads); });
  ASSERT_EQ(summary(problems), "bad_scale a.weight_scale_inv\nbad_scale c.weight_scale_inv");
  EXPECT_NE(problems[0].message.find("5 more of its values"), std::string::npos) << problems[0].message;
}

TEST_F(FormTest, ScalesOfActivationsAreIgnoredButChecked) {
  StoredForm stored = stored_as("nvfp4_modelopt", "m", kRows, kCols);
  named(stored.tensors, "m.input_scale").data = bytes_of(std::numeric_limits<float>::quiet_NaN());
  const std::vector<Parameter> parameters = {matrix("m")};
  const Catalog read = catalog(stored.tensors);
  EXPECT_EQ(summary(problems_of([&] { execute(resolve(parameters, {}, read), parameters, read, kThreads); })),
            "bad_scale m.input_scale");
}

}  // namespace
}  // namespace fulgur
