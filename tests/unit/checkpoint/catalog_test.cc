#include "checkpoint/catalog.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

struct Known {
  const char* folder;
  size_t num_files;
  size_t num_tensors;
};

class GoldenCatalog : public ::testing::TestWithParam<Known> {};

TEST_P(GoldenCatalog, HoldsEveryTensorOfItsShards) {
  const Catalog catalog = read_catalog(std::filesystem::path(FULGUR_SOURCE_DIR) / GetParam().folder);
  EXPECT_EQ(catalog.files.size(), GetParam().num_files);
  EXPECT_EQ(catalog.entries.size(), GetParam().num_tensors);
}

INSTANTIATE_TEST_SUITE_P(Plain, GoldenCatalog,
                         ::testing::Values(Known{"models/mini-v32", 1, 241},
                                           Known{"tests/golden/data/v32-bf16", 1, 106},
                                           Known{"tests/golden/data/v32-bf16-fused", 1, 103},
                                           Known{"tests/golden/data/glm-bf16", 2, 121},
                                           Known{"tests/golden/data/glm-bf16-fused", 1, 118},
                                           Known{"tests/golden/data/v3-bf16", 1, 79}));

/// A folder with shards and an index, as a test needs them.
class FolderTest : public ::testing::Test {
 protected:
  void shard(std::string_view file, const std::vector<TestTensor>& tensors) {
    write_bytes(folder_ / file, good_safetensors(tensors));
  }
  void index(std::string_view text) { write_bytes(folder_ / "model.safetensors.index.json", text); }
  void weight_map(std::string_view text) {
    index(fmt::format(R"({{"metadata":{{"total_size":1}},"weight_map":{{{}}}}})", text));
  }
  Catalog read() const { return read_catalog(folder_.path()); }
  [[nodiscard]] std::vector<Problem> problems() const {
    return problems_of([&] { read(); });
  }

  const TestTensor a_ = counting("a", DType::kF32, {2});
  const TestTensor b_ = counting("b", DType::kBf16, {3});
  TemporaryFolder folder_;
};

TEST_F(FolderTest, OfShardsThatTheIndexLeavesOutTheNamesAreKeptAndNoFaultTold) {
  shard("model-00001-of-00003.safetensors", {a_});
  shard("model-00002-of-00003.safetensors", {a_, b_});
  write_bytes(folder_ / "model-00003-of-00003.safetensors", "no header");
  weight_map(R"("a":"model-00001-of-00003.safetensors")");
  const Catalog catalog = read();
  EXPECT_EQ(catalog.entries.size(), 1U);
  EXPECT_TRUE(catalog.gaps.empty());
  ASSERT_EQ(catalog.gaps.unlisted.size(), 1U);
  EXPECT_EQ(catalog.gaps.unlisted.at("b"), "model-00002-of-00003.safetensors");
}

TEST_F(FolderTest, TheIndexSaysWhichFilesAreRead) {
  shard("one.safetensors", {a_});
  shard("two.safetensors", {b_});
  shard("model.safetensors", {counting("c", DType::kF32, {1})});
  weight_map(R"("a":"one.safetensors","b":"two.safetensors")");
  const Catalog catalog = read();
  ASSERT_EQ(catalog.entries.size(), 2U);
  EXPECT_EQ(catalog.files[static_cast<size_t>(catalog.find("b")->file)]->file_name(), "two.safetensors");
  EXPECT_EQ(catalog.find("c"), nullptr);
  EXPECT_TRUE(catalog.notices.empty());
}

TEST_F(FolderTest, ATensorThatTheIndexLeavesOutIsUsedWithOneNotice) {
  shard("one.safetensors", {a_, b_, counting("c", DType::kF32, {1})});
  weight_map(R"("b":"one.safetensors")");
  const Catalog catalog = read();
  EXPECT_NE(catalog.find("a"), nullptr);
  ASSERT_EQ(catalog.notices.size(), 1U);
  EXPECT_NE(catalog.notices[0].find("leaves out 2"), std::string::npos) << catalog.notices[0];
}

TEST_F(FolderTest, TensorsAreFoundHoweverTheyAreDealtOutToShards) {
  constexpr size_t kTensors = 60;
  static constexpr size_t kShards = 7;
  const auto name = [](size_t tensor) { return fmt::format("layers.{}.weight", tensor); };
  const auto file = [](size_t shard) {
    return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, kShards);
  };
  using Dealing = size_t (*)(size_t);
  for (const Dealing shard_of : {Dealing([](size_t i) { return i % kShards; }),
                                 Dealing([](size_t i) { return i * kShards / kTensors; }),
                                 Dealing([](size_t i) { return kShards - 1 - i * kShards / kTensors; }),
                                 Dealing([](size_t i) { return i * i % 11 % kShards; })}) {
    std::vector<std::vector<TestTensor>> shards(kShards);
    for (size_t i = 0; i < kTensors; ++i) shards[shard_of(i)].push_back(counting(name(i), DType::kF32, {1}));
    for (size_t i = 0; i < kShards; ++i) shard(file(i), shards[i]);
    const Catalog catalog = read();
    ASSERT_EQ(catalog.entries.size(), kTensors);
    for (size_t i = 0; i < kTensors; ++i) {
      const CatalogEntry* entry = catalog.find(name(i));
      ASSERT_NE(entry, nullptr) << name(i);
      EXPECT_EQ(catalog.file_of(*entry), file(shard_of(i)));
    }
  }
}

TEST_F(FolderTest, AListedFileThatIsNotThereIsABadIndex) {
  shard("one.safetensors", {a_});
  weight_map(R"("a":"one.safetensors","b":"two.safetensors","c":"two.safetensors")");
  ASSERT_EQ(summary(problems()), "bad_index");
  EXPECT_EQ(problems()[0].file, "two.safetensors");
}

TEST_F(FolderTest, AListedLinkThatLeadsNowhereIsABadIndex) {
  std::filesystem::create_symlink("nowhere", folder_ / "one.safetensors");
  weight_map(R"("a":"one.safetensors")");
  EXPECT_EQ(summary(problems()), "bad_index");
}

TEST_F(FolderTest, AListedTensorThatItsFileDoesNotHoldIsABadIndex) {
  shard("one.safetensors", {a_});
  shard("two.safetensors", {b_});
  weight_map(R"("a":"two.safetensors","b":"two.safetensors","c":"one.safetensors")");
  const auto found = problems();
  ASSERT_EQ(summary(found), "bad_index a\nbad_index c");
  EXPECT_EQ(found[0].file, "two.safetensors");
  EXPECT_EQ(found[0].found, "in one.safetensors");
  EXPECT_EQ(found[1].found, "in none of the shards");
}

TEST_F(FolderTest, ATensorInTwoShardsIsABadIndexThatNamesBoth) {
  shard("one.safetensors", {a_});
  shard("two.safetensors", {a_, b_});
  weight_map(R"("a":"two.safetensors","b":"two.safetensors","a2":"one.safetensors")");
  const auto found = problems();
  ASSERT_EQ(summary(found), "bad_index a\nbad_index a2");
  EXPECT_NE(found[0].message.find("one.safetensors"), std::string::npos);
  EXPECT_NE(found[0].message.find("two.safetensors"), std::string::npos);
}

TEST_F(FolderTest, OnlyPlainFileNamesAreFollowed) {
  shard("one.safetensors", {a_});
  for (const char* name :
       {"../one.safetensors", "./one.safetensors", "/one.safetensors", "sub/one.safetensors", "..", ".", "",
        "one.safetensors\\u0000", "sub\\\\one.safetensors"}) {
    weight_map(fmt::format(R"("a":"{}")", name));
    EXPECT_EQ(summary(problems()), "bad_index a") << name;
  }
}

TEST_F(FolderTest, AnIndexThatIsNoIndexIsABadIndex) {
  shard("model.safetensors", {a_});
  for (const char* text :
       {"", "[]", "{", "{}", R"({"weight_map":{}})", R"({"weight_map":[]})", R"({"weight_map":"a"})",
        R"({"weight_map":null})", R"({"weight_map":{"a":"model.safetensors"}}x)",
        R"({"weight_map":{"a":"model.safetensors"},"weight_map":{"a":"model.safetensors"}})",
        R"({"metadata":1,"metadata":2,"weight_map":{"a":"model.safetensors"}})",
        "{\"weight_map\":{\"a\xff\":\"model.safetensors\"}}"}) {
    index(text);
    ASSERT_EQ(summary(problems()), "bad_index") << text;
    EXPECT_EQ(problems()[0].file, "model.safetensors.index.json");
  }
}

TEST_F(FolderTest, EveryEntryOfAnIndexThatNamesNoFileIsTold) {
  shard("model.safetensors", {a_});
  weight_map(R"("a":"model.safetensors","b":1,"c":null,"d":["model.safetensors",["x"]],"e":{"f":{"g":"h"}},)"
             R"("h":"../model.safetensors","i":2.5,"j":true)");
  EXPECT_EQ(summary(problems()),
            "bad_index b\nbad_index c\nbad_index d\nbad_index e\nbad_index h\nbad_index i\nbad_index j");
  for (const Problem& problem : problems()) {
    EXPECT_EQ(problem.file, "model.safetensors.index.json");
    EXPECT_FALSE(problem.expected.empty() || problem.found.empty() || problem.todo.empty());
  }
}

TEST_F(FolderTest, AnIndexOfMoreFilesThanAnyCheckpointHasIsABadIndex) {
  std::string text;
  for (int i = 0; i < 2001; ++i) text += fmt::format(R"({}"t{}":"f{}")", i == 0 ? "" : ",", i, i);
  weight_map(text);
  EXPECT_EQ(summary(problems()), "bad_index");
}

TEST_F(FolderTest, ATensorListedTwiceIsABadIndex) {
  shard("model.safetensors", {a_});
  weight_map(R"("a":"model.safetensors","\u0061":"model.safetensors")");
  EXPECT_EQ(summary(problems()), "bad_index a");
}

TEST_F(FolderTest, WhateverElseAnIndexHoldsIsIgnored) {
  shard("model.safetensors", {a_});
  index(
      R"({"metadata":{"total_size":-1.5,"x":[{"y":[null,true,"z"]}]},"weight_map":{"a":"model.safetensors"},"z":7})");
  EXPECT_EQ(read().entries.size(), 1U);
  std::string deep(100'000, '[');
  deep.append(100'000, ']');
  index(R"({"weight_map":{"a":"model.safetensors"},"metadata":)" + deep + "}");
  EXPECT_EQ(read().entries.size(), 1U);
}

TEST_F(FolderTest, WithoutAnIndexTheOneFileIsRead) {
  shard("model.safetensors", {a_});
  for (const char* other : {"golden.safetensors", "model-of-2.safetensors", "model-a-of-b.safetensors",
                            "model-1-of-.safetensors", "consolidated.safetensors"}) {
    shard(other, {b_});
  }
  EXPECT_EQ(read().entries.size(), 1U);
}

TEST_F(FolderTest, WithoutAnIndexACompleteSetIsRead) {
  shard("model-00001-of-00002.safetensors", {a_});
  shard("model-00002-of-00002.safetensors", {b_});
  EXPECT_EQ(read().entries.size(), 2U);
}

TEST_F(FolderTest, WithoutAnIndexAnIncompleteSetIsRefused) {
  shard("model-00001-of-00003.safetensors", {a_});
  shard("model-00003-of-00003.safetensors", {b_});
  ASSERT_EQ(summary(problems()), "bad_index");
  EXPECT_NE(problems()[0].message.find("number 2 of 3"), std::string::npos) << problems()[0].message;
}

TEST_F(FolderTest, WithoutAnIndexASetOfUnclearNumbersIsRefused) {
  for (const char* second :
       {"model-00002-of-00003.safetensors", "model-1-of-2.safetensors", "model-00000-of-00002.safetensors",
        "model-00003-of-00002.safetensors", "model.safetensors"}) {
    shard("model-00001-of-00002.safetensors", {a_});
    shard(second, {b_});
    EXPECT_EQ(summary(problems()), "bad_index") << second;
    std::filesystem::remove(folder_ / second);
  }
}

TEST_F(FolderTest, AFolderWithoutACheckpointIsAnIoError) {
  EXPECT_EQ(summary(problems()), "io_error");
  EXPECT_EQ(summary(problems_of([&] { read_catalog(folder_ / "none"); })), "io_error");
  shard("file", {a_});
  EXPECT_EQ(summary(problems_of([&] { read_catalog(folder_ / "file"); })), "io_error");
}

TEST_F(FolderTest, LinksAreFollowed) {
  std::filesystem::create_directory(folder_ / "blobs");
  shard("blobs/1234", {a_});
  write_bytes(folder_ / "blobs/5678", R"({"weight_map":{"a":"one.safetensors"}})");
  std::filesystem::create_symlink("blobs/1234", folder_ / "one.safetensors");
  std::filesystem::create_symlink("blobs/5678", folder_ / "model.safetensors.index.json");
  EXPECT_EQ(read().entries.size(), 1U);
}

TEST_F(FolderTest, ALinkThatLeadsToItselfIsAnIoError) {
  std::filesystem::create_symlink("model.safetensors", folder_ / "model.safetensors");
  EXPECT_EQ(summary(problems()), "io_error");
  std::filesystem::create_symlink("model.safetensors.index.json", folder_ / "model.safetensors.index.json");
  EXPECT_EQ(summary(problems()), "io_error\nio_error") << "each of the two";
  std::filesystem::remove(folder_ / "model.safetensors.index.json");
  weight_map(R"("a":"model.safetensors")");
  EXPECT_EQ(summary(problems()), "io_error");
}

TEST_F(FolderTest, AFolderOrAPipeInPlaceOfAFileIsAnIoError) {
  std::filesystem::create_directory(folder_ / "model.safetensors");
  EXPECT_EQ(summary(problems()), "io_error");
  std::filesystem::remove(folder_ / "model.safetensors");
  ASSERT_EQ(mkfifo((folder_ / "model.safetensors").c_str(), 0600), 0);
  EXPECT_EQ(summary(problems()), "io_error");
}

TEST_F(FolderTest, EveryFaultOfAFolderIsReportedTogether) {
  write_bytes(folder_ / "one.safetensors", "short");
  write_bytes(folder_ / "two.safetensors", raw_safetensors("[]"));
  shard("four.safetensors", {a_});
  weight_map(
      R"("a":"one.safetensors","b":"two.safetensors","c":"three.safetensors","d":"four.safetensors","e":"../five")");
  EXPECT_EQ(summary(problems()), "bad_header\nbad_index\nbad_index d\nbad_index e\ntruncated_file");
}

}  // namespace
}  // namespace fulgur
