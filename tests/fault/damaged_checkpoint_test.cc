#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <random>

#include "checkpoint/catalog.h"
#include "model/load.h"
#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

constexpr const char* kIndexFile = "model.safetensors.index.json";

std::filesystem::path golden_folder(std::string_view name) {
  return std::filesystem::path(FULGUR_SOURCE_DIR) / "tests/golden/data" / name;
}

/// "a.b.weight" -> "a.b."
std::string module_of(const std::string& name) { return name.substr(0, name.rfind('.') + 1); }

/// The MTP layer's copies of embedding and head: the main tensors serve without them.
bool may_be_absent(const std::string& name) {
  return name.starts_with("model.layers.") &&
         (name.ends_with(".embed_tokens.weight") || name.ends_with(".shared_head.head.weight"));
}

std::string last_of(const std::string& name) { return name.substr(name.rfind('.') + 1); }

bool is_plain_type(const CatalogEntry& entry) {
  return entry.dtype == DType::kBf16 || entry.dtype == DType::kF32;
}

/// Of activations: the checkpoint is as good without it.
bool is_unneeded(const std::string& name) { return last_of(name).starts_with("input_"); }
bool is_scale(const std::string& name) {
  return is_unneeded(name) || last_of(name).starts_with("weight_scale") ||
         last_of(name) == "weight_global_scale";
}

constexpr const char* kPlain[] = {"v32-bf16", "v32-bf16-fused", "glm-bf16", "glm-bf16-fused", "v3-bf16"};
constexpr const char* kQuantized[] = {"v32-fp8",       "v32-fp8-fused", "v32-nvfp4", "glm-fp8",
                                      "glm-fp8-fused", "glm-nvfp4-ct",  "v3-fp8",    "v3-nvfp4"};
/// One of each family and each kind.
constexpr const char* kOfEachKind[] = {"v32-bf16",      "glm-bf16",     "v3-bf16", "v32-fp8",
                                       "v32-fp8-fused", "glm-nvfp4-ct", "v3-nvfp4"};

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
    return summary(problems_of_plan(catalog));
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
                is_unneeded(name) ? "" : "shape_mismatch " + name);
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
              is_unneeded(name) ? "" : "unknown_dtype " + name);
  }
}

TEST_P(DamagedPlainGolden, SeesAQuantizedTypeWithoutItsScales) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    const std::string& name = good_.entries[i].name;
    const auto problems_as = [&](DType dtype) {
      return problems_after([&](Catalog& catalog) { catalog.entries[i].dtype = dtype; });
    };
    EXPECT_EQ(problems_as(DType::kF8E4M3), (quantizable(name) ? "missing_scale " : "unknown_dtype ") + name);
    // U8 holds two columns a byte: the shape is off first.
    EXPECT_EQ(problems_as(DType::kU8), (quantizable(name) ? "shape_mismatch " : "unknown_dtype ") + name);
  }
}

TEST_P(DamagedGolden, RefusesAFusedTensorBesideThePair) {
  const std::string wk = "indexer.wk.weight";
  const std::string fused = "indexer.wk_weights_proj.weight";
  for (const CatalogEntry& entry : good_.entries) {
    for (const auto& [here, added] : {std::pair(wk, fused), std::pair(fused, wk)}) {
      if (!entry.name.ends_with(here)) continue;
      const std::string prefix = entry.name.substr(0, entry.name.size() - here.size());
      EXPECT_EQ(problems_after([&, name = prefix + added](Catalog& catalog) {
                  catalog.entries.push_back(entry);
                  catalog.entries.back().name = name;
                }),
                "conflicting_tensors " + prefix + wk);
    }
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

/// The bug that this project began with: the scale of `wk`, beside a tensor that was fused without it.
TEST_P(DamagedGolden, SeesTheScaleOfWkBesideAFusedTensor) {
  for (const CatalogEntry& entry : good_.entries) {
    if (!entry.name.ends_with("indexer.wk_weights_proj.weight")) continue;
    const std::string name =
        entry.name.substr(0, entry.name.rfind("wk_weights_proj")) + "wk.weight_scale_inv";
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries.push_back(entry);
                catalog.entries.back().name = name;
              }),
              "orphan_scale " + name);
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

/// A golden folder that may be written to.
class DamagedFiles : public DamagedGolden {
 protected:
  DamagedFiles() {
    for (const auto& file : good_.files) std::filesystem::copy(file->path(), folder_.path());
    const auto index = golden_folder(GetParam()) / kIndexFile;
    if (std::filesystem::exists(index)) std::filesystem::copy(index, folder_.path());
  }

  [[nodiscard]] std::vector<Problem> problems() const {
    return problems_of([&] { read_catalog(folder_.path()); });
  }

  TemporaryFolder folder_;
};

INSTANTIATE_TEST_SUITE_P(Each, DamagedFiles, ::testing::ValuesIn(kOfEachKind), test_name);

TEST_P(DamagedFiles, AreTruncatedWhereverTheyAreCut) {
  for (size_t number = 0; number < good_.files.size(); ++number) {
    const std::filesystem::path file = folder_ / good_.files[number]->file_name();
    const std::string whole = read_bytes(file);
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, whole.data(), sizeof(header_bytes));
    std::vector<uint64_t> cuts = {0, 1, 7, 8, 9, 8 + header_bytes / 2, 7 + header_bytes, whole.size() - 1};
    for (const CatalogEntry& entry : good_.entries) {
      if (static_cast<size_t>(entry.file) == number) cuts.push_back(entry.offset);
    }
    std::sort(cuts.rbegin(), cuts.rend());
    for (const uint64_t cut : cuts) {
      std::filesystem::resize_file(file, cut);
      const auto found = problems();
      ASSERT_EQ(found.size(), 1U) << cut;
      EXPECT_EQ(name(found[0].kind), "truncated_file") << cut;
      EXPECT_EQ(found[0].file, file.filename());
      EXPECT_EQ(found[0].found, fmt::format("{} bytes", cut));
    }
    write_bytes(file, whole);
  }
  EXPECT_TRUE(problems().empty());
}

TEST_P(DamagedFiles, AreNotTakenWithOneByteMore) {
  for (const auto& file : good_.files) {
    const std::string whole = read_bytes(file->path());
    write_bytes(folder_ / file->file_name(), whole + '\0');
    EXPECT_EQ(summary(problems()), "bad_header");
    write_bytes(folder_ / file->file_name(), whole);
  }
}

/// Changes one byte of a file in place, and back.
class Flip {
 public:
  Flip(const std::filesystem::path& path, size_t at, char with) : path_(path), at_(at), with_(with) {
    apply();
  }
  ~Flip() { apply(); }
  Flip(const Flip&) = delete;
  Flip& operator=(const Flip&) = delete;

 private:
  void apply() {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at_));
    const auto before = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(at_));
    file.put(static_cast<char>(before ^ with_));
  }
  const std::filesystem::path& path_;
  size_t at_;
  char with_;
};

/// FULGUR_TEST_SEED overrides the fixed one.
unsigned seed() {
  const char* text = std::getenv("FULGUR_TEST_SEED");
  return text == nullptr ? 20260101U : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

/// What a plan reads from where: equal plans load the same model.
std::string reads_of(const LoadPlan& plan, const Catalog& catalog) {
  std::string text;
  const auto add = [&](int number) {
    const CatalogEntry& e = catalog.entries[static_cast<size_t>(number)];
    text += fmt::format(" {} {} [{}] {}+{}", e.name, e.dtype_name, fmt::join(e.shape, ","), e.file, e.offset);
  };
  for (const PlannedParameter& parameter : plan.parameters) {
    for (const PlannedSource& source : parameter.sources) {
      add(source.entry);
      for (const PlannedScale& scale : source.scales) add(scale.entry);
    }
    text += fmt::format(" as {}\n", name(parameter.held));
  }
  return text;
}

/// A byte of what nothing needs may change; the model must then be the same.
TEST_P(DamagedFiles, NoFlippedByteOfAHeaderGoesUnseen) {
  SCOPED_TRACE(fmt::format("FULGUR_TEST_SEED={}", seed()));
  constexpr int kFlips = 1500;
  std::mt19937 random(seed());
  const std::string good_reads = reads_of(plan_model(config_, Precision::kNative, good_, true).load, good_);
  const bool has_unneeded = std::any_of(good_.entries.begin(), good_.entries.end(),
                                        [](const CatalogEntry& e) { return is_unneeded(e.name); });
  int harmless = 0;
  for (const auto& mapped : good_.files) {
    const std::filesystem::path file = folder_ / mapped->file_name();
    const std::string whole = read_bytes(file);
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, whole.data(), sizeof(header_bytes));
    const std::string_view header = std::string_view(whole).substr(8, header_bytes);
    // What means nothing may change: the values of __metadata__, and the padding.
    const size_t metadata = 8 + header.find('{', header.find("__metadata__"));
    const size_t metadata_end = 8 + header.find('}');
    const size_t padding = 8 + header.find_last_not_of(' ') + 1;
    for (int i = 0; i < kFlips; ++i) {
      const size_t at = random() % padding;
      if (at >= metadata && at <= metadata_end) continue;
      const auto with = static_cast<char>(1 + random() % 255);
      const Flip flip(file, at, with);
      std::string reads;  // empty: refused
      try {
        const Catalog catalog = read_catalog(folder_.path());
        const LoadPlan plan = plan_model(config_, Precision::kNative, catalog, /*with_mtp=*/true).load;
        if (plan.problems.empty()) reads = reads_of(plan, catalog);
      } catch (const Error& error) {
        EXPECT_FALSE(error.problems().empty());
      }
      if (!reads.empty()) {
        EXPECT_EQ(reads, good_reads) << "byte " << at << " of " << file << " xor " << static_cast<int>(with);
        ++harmless;
      }
    }
  }
  if (!has_unneeded) {
    EXPECT_EQ(harmless, 0);
  }
}

/// All ones are a NaN in every type that a scale has.
TEST_P(DamagedFiles, NameAnyScaleThatIsNotANumber) {
  for (const CatalogEntry& entry : good_.entries) {
    if (!is_scale(entry.name)) continue;
    const std::filesystem::path file = folder_ / good_.files[static_cast<size_t>(entry.file)]->file_name();
    const size_t width = size_bytes(entry.dtype);
    const size_t last = entry.offset + entry.bytes - width;
    const std::string whole = read_bytes(file);
    write_bytes(file, std::string(whole).replace(last, width, width, '\xff'));
    const Catalog catalog = read_catalog(folder_.path());
    const ModelPlan plan = plan_model(config_, Precision::kNative, catalog, /*with_mtp=*/true);
    ASSERT_EQ(summary(plan.load.problems), "");
    EXPECT_EQ(summary(problems_of([&] { execute(plan.load, plan.parameters, catalog, 1); })),
              is_unneeded(entry.name) ? "" : "bad_scale " + entry.name);
    write_bytes(file, whole);
  }
}

using DamagedIndex = DamagedFiles;
INSTANTIATE_TEST_SUITE_P(Glm, DamagedIndex, ::testing::Values("glm-bf16"));

TEST_P(DamagedIndex, NoFlippedByteIsMoreThanAProblemOrANotice) {
  SCOPED_TRACE(fmt::format("FULGUR_TEST_SEED={}", seed()));
  constexpr int kFlips = 1500;
  std::mt19937 random(seed());
  const std::filesystem::path file = folder_ / kIndexFile;
  const size_t size = std::filesystem::file_size(file);
  for (int i = 0; i < kFlips; ++i) {
    const Flip flip(file, random() % size, static_cast<char>(1 + random() % 255));
    try {
      const Catalog catalog = read_catalog(folder_.path());
      EXPECT_EQ(catalog.entries.size(), good_.entries.size());
    } catch (const Error& error) {
      for (const Problem& problem : error.problems()) EXPECT_EQ(name(problem.kind), "bad_index");
    }
  }
}

TEST(RandomBytes, AreNeverTakenForACheckpointAndNeverCrash) {
  SCOPED_TRACE(fmt::format("FULGUR_TEST_SEED={}", seed()));
  constexpr std::string_view kAlphabet =
      "{}[]\",:0123456789-.eE\\ua\"dtypeshapedata_offsetsF32BF16\x00\xff\t ";
  std::mt19937 random(seed());
  const TemporaryFolder folder;
  for (int i = 0; i < 3000; ++i) {
    std::string header = "{\"a\":{\"dtype\":\"F32\",";
    for (size_t length = random() % 60; length > 0; --length)
      header += kAlphabet[random() % kAlphabet.size()];
    write_bytes(folder / "model.safetensors", raw_safetensors(header, std::string(random() % 9, 'x')));
    EXPECT_FALSE(problems_of([&] { read_catalog(folder.path()); }).empty()) << header;
  }
}

}  // namespace
}  // namespace fulgur
