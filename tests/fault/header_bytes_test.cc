// Headers and indexes byte by byte: cut anywhere, or with a bit flipped anywhere.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "checkpoint/catalog.h"
#include "checkpoint/shard_index.h"
#include "golden_checkpoint.h"
#include "model/load.h"
#include "whole_problem.h"

namespace fulgur {
namespace {

/// Of each file every so many bytes; `make check-long` sets it to 1. Prime, so that it meets every kind of
/// field.
size_t stride() {
  const char* text = std::getenv("FULGUR_TEST_STRIDE");
  return text == nullptr ? 97 : static_cast<size_t>(std::strtoul(text, nullptr, 10));
}

uint64_t header_bytes(std::string_view file) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  return length;
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
    file.close();
    make_old(path_);
  }
  const std::filesystem::path& path_;
  size_t at_;
  char with_;
};

char bit(size_t at) { return static_cast<char>(1 << at % 8); }

/// Whether this is the MTP layer's own copy of the embedding or head, with the bytes of the main model's:
/// those are taken where it isn't found, under a name that a bit changed, say.
bool is_main_models(const CatalogEntry& entry, const Catalog& catalog) {
  const auto copies = [&](std::string_view suffix, std::string_view main) {
    if (!entry.name.starts_with("model.layers.") || !entry.name.ends_with(suffix)) return false;
    const auto found = std::ranges::find(catalog.entries, main, &CatalogEntry::name);
    return found != catalog.entries.end() && std::ranges::equal(catalog.bytes(entry), catalog.bytes(*found));
  };
  return copies(".embed_tokens.weight", "model.embed_tokens.weight") ||
         copies(".shared_head.head.weight", "lm_head.weight");
}

/// What a plan makes of which bytes: equal texts load the same model, so its logits are the same.
std::string made_of(const LoadPlan& plan, const Catalog& catalog) {
  std::string text;
  const auto add = [&](int number) {
    const CatalogEntry& e = catalog.entries[static_cast<size_t>(number)];
    text += fmt::format(" {} {} [{}] {}+{}", e.name, e.dtype_name, fmt::join(e.shape, ","), e.file, e.offset);
  };
  for (const PlannedParameter& parameter : plan.parameters) {
    if (is_main_models(catalog.entries[static_cast<size_t>(parameter.sources.front().entry)], catalog))
      continue;
    for (const PlannedSource& source : parameter.sources) {
      add(source.entry);
      for (const StepKind step : source.steps) text += fmt::format(" {}", static_cast<int>(step));
      for (const PlannedScale& scale : source.scales) add(scale.entry);
    }
    text += fmt::format(" as {}\n", name(parameter.held));
  }
  return text;
}

class HeaderBytes : public ::testing::TestWithParam<const char*> {
 protected:
  HeaderBytes() {
    const std::filesystem::path golden = golden_folder(GetParam());
    for (const auto& file : std::filesystem::directory_iterator(golden)) {
      if (file.path().filename() != "golden.safetensors") std::filesystem::copy(file, folder_.path());
    }
  }

  [[nodiscard]] std::vector<Problem> problems() const {
    return problems_of([&] { read_catalog(folder_.path()); });
  }
  /// What would be loaded; empty: it is refused.
  [[nodiscard]] std::string model() const {
    std::string made;
    const std::vector<Problem> thrown = problems_of([&] {
      const Catalog catalog = read_catalog(folder_.path());
      const LoadPlan plan = plan_model(config_, Precision::kNative, catalog, /*with_mtp=*/true).load;
      if (!plan.problems.empty()) throw Error(plan.problems);
      made = made_of(plan, catalog);
    });
    expect_whole(thrown);
    EXPECT_EQ(thrown.empty(), !made.empty());
    return made;
  }

  const Config config_ = read_config(golden_folder(GetParam()));
  const TemporaryFolder folder_;
};

std::string test_name(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Each, HeaderBytes, ::testing::ValuesIn(kGoldens), test_name);

TEST_P(HeaderBytes, CutAnywhereAreATruncatedFile) {
  const Catalog good = read_catalog(folder_.path());
  for (size_t number = 0; number < good.files.size(); ++number) {
    const std::filesystem::path file = folder_ / good.files[number]->file_name();
    const std::string whole = read_bytes(file);
    const uint64_t header = header_bytes(whole);
    std::vector<uint64_t> cuts = {0, 1, 7, 8, 9, 8 + header / 2, 7 + header, whole.size() - 1};
    for (const CatalogEntry& entry : good.entries) {
      if (static_cast<size_t>(entry.file) == number) cuts.push_back(entry.offset);
    }
    std::sort(cuts.rbegin(), cuts.rend());
    for (const uint64_t cut : cuts) {
      std::filesystem::resize_file(file, cut);
      make_old(file);
      const auto found = problems();
      ASSERT_EQ(found.size(), 1U) << cut;
      EXPECT_EQ(name(found[0].kind), "truncated_file") << cut;
      EXPECT_EQ(found[0].file, file.filename());
      EXPECT_EQ(found[0].found, fmt::format("{} bytes", cut));
      expect_whole(found);
    }
    write_bytes(file, whole);
  }
  EXPECT_TRUE(problems().empty());
}

/// A byte of what nothing needs may change; the model must then be the same.
TEST_P(HeaderBytes, WithABitFlippedAreRefusedOrLoadTheSameModel) {
  const std::string good = model();
  ASSERT_FALSE(good.empty());
  for (const std::string& name : GoldenCheckpoint::read(GetParam()).files()) {
    const std::filesystem::path file = folder_ / name;
    const size_t end = 8 + header_bytes(read_bytes(file));
    for (size_t at = 0; at < end; at += stride()) {
      SCOPED_TRACE(fmt::format("bit {} of byte {} of {}", at % 8, at, name));
      const Flip flip(file, at, bit(at));
      const std::string made = model();
      EXPECT_TRUE(made.empty() || made == good);
    }
  }
}

TEST_P(HeaderBytes, OfAnIndexWithABitFlippedAreRefusedOrListTheSameTensors) {
  const std::filesystem::path file = folder_ / kIndexFile;
  if (!std::filesystem::exists(file)) return;
  const std::string good = model();
  const size_t size = std::filesystem::file_size(file);
  for (size_t at = 0; at < size; at += stride()) {
    SCOPED_TRACE(fmt::format("bit {} of byte {}", at % 8, at));
    const Flip flip(file, at, bit(at));
    const std::string made = model();
    EXPECT_TRUE(made.empty() || made == good);
  }
}

/// The text ends where an object, a list, a key or a value does.
TEST_P(HeaderBytes, OfAnIndexOrAConfigCutAtAnyTokenAreRefused) {
  for (const char* name : {kIndexFile, "config.json", "hf_quant_config.json"}) {
    const std::filesystem::path file = folder_ / name;
    if (!std::filesystem::exists(file)) continue;
    const std::string whole = read_bytes(file);
    const size_t end = whole.find_last_of('}');
    for (size_t at = whole.find_first_of("{}[]:,\""); at < end;
         at = whole.find_first_of("{}[]:,\"", at + 1)) {
      write_bytes(file, whole.substr(0, at));
      std::vector<Problem> found = problems_of([&] { read_config(folder_.path()); });
      for (Problem& problem : problems()) found.push_back(std::move(problem));
      ASSERT_EQ(found.size(), 1U) << at;
      EXPECT_EQ(found.front().file, name);
      expect_whole(found);
    }
    write_bytes(file, whole);
  }
}

}  // namespace
}  // namespace fulgur
