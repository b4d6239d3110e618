#include <gtest/gtest.h>

#include <functional>

#include "checkpoint/catalog.h"
#include "golden_checkpoint.h"
#include "model/load.h"
#include "whole_problem.h"

// Every tensor of every golden, damaged in every way that a catalog shows: what is said of it, and that
// nothing else is.

namespace fulgur {
namespace {

/// The MTP layer's copies of embedding and head: the main tensors serve without them.
bool may_be_absent(const std::string& name) {
  return name.starts_with("model.layers.") &&
         (name.ends_with(".embed_tokens.weight") || name.ends_with(".shared_head.head.weight"));
}

bool is_plain_type(const CatalogEntry& entry) {
  return entry.dtype == DType::kBf16 || entry.dtype == DType::kF32;
}

constexpr const char* kPlain[] = {"v32-bf16", "v32-bf16-fused", "glm-bf16", "glm-bf16-fused", "v3-bf16"};
constexpr const char* kQuantized[] = {"v32-fp8",       "v32-fp8-fused", "v32-nvfp4", "glm-fp8",
                                      "glm-fp8-fused", "glm-nvfp4-ct",  "v3-fp8",    "v3-nvfp4"};

std::string test_name(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

/// The good start of every case below.
class DamagedGolden : public ::testing::TestWithParam<const char*> {
 protected:
  [[nodiscard]] std::vector<Problem> problems_of_plan(const Catalog& catalog) const {
    return plan_model(config_, Precision::kNative, catalog, /*with_mtp=*/true).load.problems;
  }
  [[nodiscard]] std::string problems_after(const std::function<void(Catalog&)>& damage) const {
    Catalog catalog = good_;
    damage(catalog);
    std::sort(catalog.entries.begin(), catalog.entries.end(),
              [](const CatalogEntry& a, const CatalogEntry& b) { return a.name < b.name; });
    const std::vector<Problem> problems = problems_of_plan(catalog);
    expect_whole(problems);
    return summary(problems);
  }
  [[nodiscard]] bool quantizable(const std::string& name) const {
    for (const Parameter& parameter : plan_model(config_, Precision::kNative, good_, true).parameters) {
      for (const std::vector<Part>& spelling : parameter.spellings) {
        for (const Part& part : spelling) {
          if (part.tensor == name) return parameter.quantizable;
        }
      }
    }
    ADD_FAILURE() << name << " belongs to no parameter";
    return false;
  }
  /// The tensors that store a module: its weight first.
  [[nodiscard]] std::vector<std::string> tensors_of(const std::string& module) const {
    std::vector<std::string> names;
    for (const CatalogEntry& entry : good_.entries) {
      if (module_of(entry.name) != module) continue;
      names.insert(is_scale(entry.name) ? names.end() : names.begin(), entry.name);
    }
    return names;
  }
  /// What is said of a checkpoint without one of its tensors.
  [[nodiscard]] std::vector<std::string> problems_without(const std::string& name) const {
    const std::string module = module_of(name);
    if (may_be_absent(name) || is_unneeded(name)) return {};
    if (is_scale(name)) return {"missing_scale " + tensors_of(module).front()};
    if (!last_of(name).starts_with("weight")) return {"missing_tensor " + name};
    // Where neither spelling of the indexer's projection is there, the first one's first half is missed.
    std::string missing = module + "weight";
    if (missing.ends_with(".wk_weights_proj.weight"))
      missing.replace(missing.rfind("wk_weights_proj"), std::string_view("wk_weights_proj").size(), "wk");
    std::vector<std::string> lines = {"missing_tensor " + missing};
    for (const std::string& other : tensors_of(module)) {
      if (is_scale(other)) lines.push_back("orphan_scale " + other);
    }
    return lines;
  }
  static std::string sorted(std::vector<std::string> lines) {
    std::sort(lines.begin(), lines.end());
    return fmt::format("{}", fmt::join(lines, "\n"));
  }

  const Config config_ = read_config(golden_folder(GetParam()));
  const Catalog good_ = read_catalog(golden_folder(GetParam()));
};

INSTANTIATE_TEST_SUITE_P(Plain, DamagedGolden, ::testing::ValuesIn(kPlain), test_name);
INSTANTIATE_TEST_SUITE_P(Quantized, DamagedGolden, ::testing::ValuesIn(kQuantized), test_name);

class DamagedPlainGolden : public DamagedGolden {};
class DamagedQuantizedGolden : public DamagedGolden {};
INSTANTIATE_TEST_SUITE_P(Each, DamagedPlainGolden, ::testing::ValuesIn(kPlain), test_name);
INSTANTIATE_TEST_SUITE_P(Each, DamagedQuantizedGolden, ::testing::ValuesIn(kQuantized), test_name);

TEST_P(DamagedGolden, IsGoodBeforeItIsDamaged) {
  EXPECT_EQ(problems_after([](Catalog&) {}), "");
}

TEST_P(DamagedGolden, MissesAnyTensorThatIsTakenAway) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries.erase(catalog.entries.begin() + static_cast<long>(i));
              }),
              sorted(problems_without(good_.entries[i].name)));
  }
}

TEST_P(DamagedGolden, SeesAnyTensorThatIsAdded) {
  for (const CatalogEntry& entry : good_.entries) {
    const std::string name = module_of(entry.name) + "extra.weight";
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries.push_back(entry);
                catalog.entries.back().name = name;
              }),
              "unexpected_tensor " + name);
  }
}

TEST_P(DamagedGolden, SeesAnyNameThatIsMisspelt) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    const std::string& name = good_.entries[i].name;
    std::vector<std::string> expected = problems_without(name);
    expected.push_back("unexpected_tensor " + name + "s");
    EXPECT_EQ(problems_after([&](Catalog& catalog) { catalog.entries[i].name += "s"; }), sorted(expected));
  }
}

TEST_P(DamagedGolden, SeesAnyDimensionThatIsOff) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    const std::string& name = good_.entries[i].name;
    for (size_t d = 0; d < good_.entries[i].shape.size(); ++d) {
      EXPECT_EQ(problems_after([&](Catalog& catalog) { ++catalog.entries[i].shape[d]; }),
                "shape_mismatch " + name);
    }
  }
}

TEST_P(DamagedGolden, SeesAnyTypeThatIsWrong) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    const std::string& name = good_.entries[i].name;
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries[i].dtype = DType::kI32;
                catalog.entries[i].dtype_name = "I32";
              }),
              "unknown_dtype " + name);
  }
}

TEST_P(DamagedPlainGolden, SeesAQuantizedTypeWithoutItsScales) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    const std::string& name = good_.entries[i].name;
    const auto problems_as = [&](DType dtype) {
      return problems_after([&](Catalog& catalog) { catalog.entries[i].dtype = dtype; });
    };
    EXPECT_EQ(problems_as(DType::kF8E4M3), (quantizable(name) ? "missing_scale " : "unknown_dtype ") + name);
    // U8 holds two columns a byte: the shape is off too.
    EXPECT_EQ(problems_as(DType::kU8), quantizable(name)
                                           ? "missing_scale " + name + "\nshape_mismatch " + name
                                           : "unknown_dtype " + name);
  }
}

TEST_P(DamagedGolden, SeesAScaleThatBelongsToNothing) {
  for (const CatalogEntry& entry : good_.entries) {
    const std::string module = module_of(entry.name);
    if (is_scale(entry.name)) continue;
    // FP8 has one such scale already, and a second spelling of it contradicts the first.
    const bool is_fp8 = entry.dtype == DType::kF8E4M3;
    const std::string name = module + (is_fp8 ? "weight_scale" : "weight_scale_inv");
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries.push_back(entry);
                catalog.entries.back().name = name;
              }),
              is_fp8 ? "conflicting_tensors " + module + "weight_scale_inv" : "orphan_scale " + name);
  }
}

TEST_P(DamagedQuantizedGolden, RefusesWhatIsNeverQuantizedWithEveryScaleInPlace) {
  // Every module that is stored plain and never is anything else, in the form that the others have.
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    const std::string& name = good_.entries[i].name;
    if (is_scale(name) || !is_plain_type(good_.entries[i]) || quantizable(name)) continue;
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries[i].dtype = DType::kF8E4M3;
                CatalogEntry scale = good_.entries[i];
                scale.name = module_of(name) + "weight_scale_inv";
                scale.dtype = DType::kF32;
                if (last_of(name) == "weight") catalog.entries.push_back(scale);
              }),
              "unknown_dtype " + name);
  }
}

}  // namespace
}  // namespace fulgur
