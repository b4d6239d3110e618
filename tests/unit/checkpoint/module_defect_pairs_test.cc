// Two defects of one module are told in one report: whoever mends what it names is not sent back for more
// (docs/spec/checkpoints.md, section 4).

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>
#include <sstream>

#include "form_fixture.h"

namespace fulgur {
namespace {

using Tensors = std::vector<TestTensor>;

/// What is done to the tensors of module "m".
struct ModuleDefect {
  std::string name;
  std::function<bool(Tensors&)> damage;  // false where the tensor is not there (any more)
};

TestTensor* find(Tensors& tensors, const std::string& component) {
  const auto at = std::find_if(tensors.begin(), tensors.end(),
                               [&](const TestTensor& t) { return t.name == "m." + component; });
  return at == tensors.end() ? nullptr : &*at;
}

bool store(Tensors& tensors, const std::string& component, const std::string& dtype,
           std::vector<int64_t> shape) {
  TestTensor* tensor = find(tensors, component);
  if (tensor == nullptr) return false;
  size_t bytes = size_bytes(parse_dtype(dtype).value());
  for (const int64_t dim : shape) bytes *= static_cast<size_t>(dim);
  *tensor = {"m." + component, dtype, std::move(shape), std::string(bytes, '\0')};
  return true;
}

ModuleDefect gone(const std::string& component) {
  return {component + " gone", [=](Tensors& tensors) {
            return std::erase_if(tensors, [&](const TestTensor& t) { return t.name == "m." + component; }) >
                   0;
          }};
}
ModuleDefect typed(const std::string& component, const std::string& dtype) {
  return {component + " of another type", [=](Tensors& tensors) {
            const TestTensor* tensor = find(tensors, component);
            return tensor != nullptr && store(tensors, component, dtype, std::vector(tensor->shape));
          }};
}
ModuleDefect shaped(const std::string& component) {
  return {component + " of another shape", [=](Tensors& tensors) {
            const TestTensor* tensor = find(tensors, component);
            return tensor != nullptr && store(tensors, component, std::string(tensor->dtype), {7, 5});
          }};
}
ModuleDefect renamed(const std::string& from, const std::string& to) {
  return {from + " named " + to, [=](Tensors& tensors) {
            TestTensor* tensor = find(tensors, from);
            if (tensor == nullptr || find(tensors, to) != nullptr) return false;
            tensor->name = "m." + to;
            return true;
          }};
}
ModuleDefect added(const std::string& component, const std::string& dtype, std::vector<int64_t> shape) {
  return {component + " added", [=](Tensors& tensors) {
            if (find(tensors, component) != nullptr) return false;
            tensors.push_back({"m." + component, "U8", {0}, {}});
            return store(tensors, component, dtype, shape);
          }};
}

const std::string kScaleNames[] = {"weight_scale_inv", "weight_scale",        "weight_scale_2",
                                   "input_scale",      "weight_global_scale", "input_global_scale"};

/// Every defect of a module stored so.
std::vector<ModuleDefect> defects_of(const StoredForm& stored) {
  std::vector<ModuleDefect> defects;
  std::set<std::string> components;
  for (const TestTensor& tensor : stored.tensors) components.insert(tensor.name.substr(2));
  const std::string weight = components.contains("weight") ? "weight" : "weight_packed";
  for (const std::string& component : components) {
    const bool may_be_absent = component.starts_with("input");
    if (!may_be_absent) defects.push_back(gone(component));
    defects.push_back(typed(component, "I32"));
    defects.push_back(shaped(component));
    if (component == weight || may_be_absent) continue;
    for (const std::string& other : kScaleNames)
      if (!components.contains(other)) defects.push_back(renamed(component, other));
  }
  for (const std::string& other : kScaleNames)
    if (!components.contains(other)) defects.push_back(added(other, "F32", {7, 5}));
  if (weight == "weight") {
    defects.push_back(added("weight_packed", "U8", {7, 5}));
  } else {
    defects.push_back(added("weight", "BF16", {7, 5}));
  }
  defects.push_back(added("weights", "BF16", {1}));
  return defects;
}

/// Of headers alone: a plan looks at no bytes.
Catalog headers_of(const Tensors& tensors) {
  Catalog catalog{.source = "model.safetensors"};
  for (const TestTensor& tensor : tensors) {
    catalog.entries.push_back({.name = tensor.name,
                               .dtype_name = tensor.dtype,
                               .dtype_known = true,
                               .dtype = parse_dtype(tensor.dtype).value(),
                               .shape = tensor.shape,
                               .bytes = tensor.data.size(),
                               .drawn = Draw{}});
  }
  return catalog;
}

std::set<std::string> lines_of(const std::string& text) {
  std::set<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.insert(line);
  return lines;
}

bool any_starts(const std::set<std::string>& lines, const std::string& start) {
  return std::any_of(lines.begin(), lines.end(),
                     [&](const std::string& line) { return line.starts_with(start); });
}

/// Whether `line`, said of one defect alone, is no fault any more or follows from what is said of both.
bool is_settled(const std::string& line, const std::set<std::string>& said, Tensors& tensors) {
  const std::string kind = line.substr(0, line.find(' '));
  const std::string component = line.substr(line.find(' ') + 3);
  const bool of_scale =
      std::find(std::begin(kScaleNames), std::end(kScaleNames), component) != std::end(kScaleNames);
  // The other defect took the tensor away.
  if (kind != "missing_tensor" && find(tensors, component) == nullptr) return true;
  // Of FP8's two spellings one took the place of the other.
  const bool one =
      (find(tensors, "weight_scale") != nullptr) != (find(tensors, "weight_scale_inv") != nullptr);
  const TestTensor* weight = find(tensors, "weight");
  if (weight != nullptr && weight->dtype == "F8_E4M3" && one &&
      (kind == "missing_scale" || kind == "conflicting_tensors"))
    return true;
  // What a scale must be, and which are needed, is known from the weight's type alone: that is absent, one of
  // two, or none that can be.
  const bool form_is_open =
      any_starts(said, "missing_tensor m.weight") || said.contains("conflicting_tensors m.weight") ||
      said.contains("unknown_dtype m.weight") || said.contains("unknown_dtype m.weight_packed");
  if (form_is_open && (of_scale || kind == "missing_scale")) return true;
  return false;
}

TEST_F(FormTest, TwoDefectsOfOneModuleAreBothToldWhereNeitherFollowsFromTheOther) {
  int pairs = 0;
  for (const std::string form :
       {"bf16", "fp8_block", "fp8_row", "fp8_tensor_scalar", "nvfp4_modelopt", "nvfp4_ct"}) {
    const StoredForm stored = stored_as(form, "m", kRows, kCols);
    const auto said_of = [&](const Tensors& tensors) {
      return lines_of(
          summary(resolve(std::vector{matrix("m")}, {}, headers_of(tensors), stored.fp8).problems));
    };
    const std::vector<ModuleDefect> defects = defects_of(stored);
    std::vector<std::set<std::string>> alone;
    for (const ModuleDefect& defect : defects) {
      Tensors tensors = stored.tensors;
      ASSERT_TRUE(defect.damage(tensors)) << form << ": " << defect.name;
      alone.push_back(tensors.empty() ? std::set<std::string>{"missing_tensor m.weight"} : said_of(tensors));
    }
    for (size_t i = 0; i < defects.size(); ++i) {
      for (size_t j = 0; j < defects.size(); ++j) {
        Tensors tensors = stored.tensors;
        if (i == j || !defects[i].damage(tensors) || !defects[j].damage(tensors) || tensors.empty()) continue;
        const std::string weight = form == "nvfp4_ct" ? "weight_packed" : "weight";
        const std::string other = form == "nvfp4_ct" ? "weight" : "weight_packed";
        if (find(tensors, weight) == nullptr && find(tensors, other) != nullptr) continue;  // another form
        ++pairs;
        const std::set<std::string> said = said_of(tensors);
        for (const auto* lines : {&alone[i], &alone[j]}) {
          for (const std::string& line : *lines) {
            EXPECT_TRUE(said.contains(line) || is_settled(line, said, tensors))
                << form << ", " << defects[i].name << ", " << defects[j].name << ": no word of " << line;
          }
        }
      }
    }
  }
  EXPECT_GT(pairs, 1000);
}

TEST_F(FormTest, AScaleUnderAnotherFlavoursNameIsMissingAndOrphaned) {
  StoredForm stored = stored_as("nvfp4_modelopt", "m", kRows, kCols);
  ASSERT_TRUE(renamed("weight_scale_2", "weight_global_scale").damage(stored.tensors));
  EXPECT_EQ(summary(resolve(std::vector{matrix("m")}, {}, catalog(stored.tensors), stored.fp8).problems),
            "missing_scale m.weight\norphan_scale m.weight_global_scale");
}

TEST_F(FormTest, AScaleThatFitsAWeightOfAnotherShapeIsNoSecondFault) {
  StoredForm stored = stored_as("fp8_block", "m", kRows + 128, kCols);
  EXPECT_EQ(summary(resolve(std::vector{matrix("m")}, {}, catalog(stored.tensors), stored.fp8).problems),
            "shape_mismatch m.weight");
}

}  // namespace
}  // namespace fulgur
