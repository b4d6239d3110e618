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
      for (const Part& part : parameter.spellings.front()) {
        if (part.tensor == name) return parameter.quantizable;
      }
    }
    ADD_FAILURE() << name << " belongs to no parameter";
    return false;
  }

  const Config config_ = read_config(golden_folder(GetParam()));
  const Catalog good_ = read_catalog(golden_folder(GetParam()));
};

INSTANTIATE_TEST_SUITE_P(Each, DamagedGolden, ::testing::Values("v32-bf16", "glm-bf16", "v3-bf16"),
                         test_name);

TEST_P(DamagedGolden, IsGoodBeforeItIsDamaged) {
  EXPECT_EQ(problems_after([](Catalog&) {}), "");
}

TEST_P(DamagedGolden, MissesAnyTensorThatIsTakenAway) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries.erase(catalog.entries.begin() + static_cast<long>(i));
              }),
              may_be_absent(good_.entries[i].name) ? "" : "missing_tensor " + good_.entries[i].name);
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
    EXPECT_EQ(
        problems_after([&](Catalog& catalog) { catalog.entries[i].name += "s"; }),
        (may_be_absent(name) ? "" : "missing_tensor " + name + "\n") + "unexpected_tensor " + name + "s");
  }
}

TEST_P(DamagedGolden, SeesAnyDimensionThatIsOff) {
  for (size_t i = 0; i < good_.entries.size(); ++i) {
    for (size_t d = 0; d < good_.entries[i].shape.size(); ++d) {
      EXPECT_EQ(problems_after([&](Catalog& catalog) { ++catalog.entries[i].shape[d]; }),
                "shape_mismatch " + good_.entries[i].name);
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
    for (const DType dtype : {DType::kF8E4M3, DType::kU8}) {
      EXPECT_EQ(problems_after([&](Catalog& catalog) { catalog.entries[i].dtype = dtype; }),
                (quantizable(name) ? "unsupported " : "unknown_dtype ") + name);
    }
  }
}

TEST_P(DamagedGolden, RefusesAFusedTensorBesideThePair) {
  for (const CatalogEntry& entry : good_.entries) {
    if (!entry.name.ends_with("indexer.wk.weight")) continue;
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries.push_back(entry);
                catalog.entries.back().name.replace(entry.name.rfind("wk.weight"), 2, "wk_weights_proj");
              }),
              "conflicting_tensors " + entry.name);
  }
}

TEST_P(DamagedGolden, SeesAScaleThatBelongsToNothing) {
  for (const CatalogEntry& entry : good_.entries) {
    const std::string name = module_of(entry.name) + "weight_scale_inv";
    EXPECT_EQ(problems_after([&](Catalog& catalog) {
                catalog.entries.push_back(entry);
                catalog.entries.back().name = name;
              }),
              "orphan_scale " + name);
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

INSTANTIATE_TEST_SUITE_P(Each, DamagedFiles, ::testing::Values("v32-bf16", "glm-bf16", "v3-bf16"), test_name);

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

TEST_P(DamagedFiles, NoFlippedByteOfAHeaderGoesUnseen) {
  SCOPED_TRACE(fmt::format("FULGUR_TEST_SEED={}", seed()));
  constexpr int kFlips = 1500;
  std::mt19937 random(seed());
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
      std::string seen;
      try {
        seen = summary(problems_of_plan(read_catalog(folder_.path())));
      } catch (const Error& error) {
        seen = summary(error.problems());
      }
      EXPECT_NE(seen, "") << "byte " << at << " of " << file << " xor " << static_cast<int>(with);
    }
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
