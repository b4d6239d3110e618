#include "checkpoint/safetensors_writer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <functional>
#include <numeric>

#include "checkpoint/catalog.h"
#include "checkpoint/tensor_values.h"
#include "support/checkpoint_files.h"
#include "support/random_text.h"

namespace fulgur {
namespace {

std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(folder))
    names.push_back(file.path().filename());
  return names;
}

struct Tensor {
  std::string name;
  DType dtype{};
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// The last tensors' bytes first.
void write_safetensors(const std::filesystem::path& path, const std::vector<Tensor>& tensors) {
  std::vector<TensorToPlace> places;
  for (const Tensor& tensor : tensors) {
    places.push_back(
        {tensor.name, name(tensor.dtype), tensor.shape, tensor.bytes.size(), size_bytes(tensor.dtype)});
  }
  SafetensorsWriter file(path, places);
  for (size_t i = tensors.size(); i-- > 0;) file.write(i, tensors[i].bytes);
  file.commit();
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const std::vector<float> floats = {1.5F, -2.0F, 0.0F};
  const std::vector<int64_t> longs = {-1, int64_t{1} << 40};
  const std::vector<int32_t> ints = {7};
  const std::vector<int16_t> shorts = {-300, 5};
  const TemporaryFolder folder;
  write_safetensors(folder / "out.safetensors",
                    {{"shorts", DType::kI16, {2, 1}, std::as_bytes(std::span(shorts))},
                     {"floats", DType::kF32, {3}, std::as_bytes(std::span(floats))},
                     {"a \"quoted\" \\ name", DType::kI32, {}, std::as_bytes(std::span(ints))},
                     {"nothing", DType::kF32, {0, 4}, {}},
                     {"longs", DType::kI64, {2}, std::as_bytes(std::span(longs))}});
  const Catalog catalog = read_safetensors(folder / "out.safetensors");
  ASSERT_EQ(catalog.entries.size(), 5U);
  EXPECT_EQ(read_floats(catalog, require(catalog, "floats")), floats);
  EXPECT_EQ(read_integers(catalog, require(catalog, "longs")), longs);
  EXPECT_EQ(read_integers(catalog, require(catalog, "shorts")), (std::vector<int64_t>{-300, 5}));
  EXPECT_EQ(require(catalog, "shorts").shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(read_integers(catalog, require(catalog, "a \"quoted\" \\ name")), std::vector<int64_t>{7});
  EXPECT_EQ(require(catalog, "nothing").shape, (std::vector<int64_t>{0, 4}));
  for (const CatalogEntry& entry : catalog.entries) EXPECT_EQ(entry.offset % size_bytes(entry.dtype), 0U);
}

TEST(SafetensorsWriter, WritesAnyTensorsSoThatTheyAreReadAsTheyWere) {
  const TemporaryFolder folder;
  EXPECT_TRUE(rc::check([&] {
    const auto names = *rc::gen::unique<std::vector<std::string>>(test::any_text());
    std::vector<Tensor> tensors;
    std::vector<std::vector<std::byte>> data(names.size());
    for (size_t i = 0; i < names.size(); ++i) {
      if (names[i] == "__metadata__") continue;
      const DType dtype = *rc::gen::element(DType::kBf16, DType::kF16, DType::kF32, DType::kF8E4M3,
                                            DType::kU8, DType::kI16, DType::kI32, DType::kI64);
      const auto shape = *rc::gen::container<std::vector<int64_t>>(rc::gen::inRange<int64_t>(0, 4));
      if (shape.size() > 6) continue;
      const int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies());
      data[i] = *rc::gen::container<std::vector<std::byte>>(
          static_cast<size_t>(count) * size_bytes(dtype),
          rc::gen::map(rc::gen::arbitrary<uint8_t>(), [](uint8_t byte) { return std::byte{byte}; }));
      tensors.push_back({names[i], dtype, shape, data[i]});
    }
    write_safetensors(folder / "out.safetensors", tensors);
    const Catalog catalog = read_safetensors(folder / "out.safetensors");
    RC_ASSERT(catalog.entries.size() == tensors.size());
    for (const Tensor& tensor : tensors) {
      const CatalogEntry* entry = catalog.find(tensor.name);
      RC_ASSERT(entry != nullptr);
      RC_ASSERT(entry->dtype_known && entry->dtype == tensor.dtype && entry->shape == tensor.shape);
      RC_ASSERT(std::ranges::equal(catalog.bytes(*entry), tensor.bytes));
    }
  }));
}

TEST(SafetensorsWriter, WritesAFileWithoutTensors) {
  const TemporaryFolder folder;
  write_safetensors(folder / "out.safetensors", {});
  EXPECT_TRUE(read_safetensors(folder / "out.safetensors").entries.empty());
}

TEST(SafetensorsWriter, ReplacesAFileAndLeavesNoOther) {
  const TemporaryFolder folder;
  write_bytes(folder / "out.safetensors", "before");
  write_safetensors(folder / "out.safetensors", {});
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"out.safetensors"});
  EXPECT_TRUE(read_safetensors(folder / "out.safetensors").entries.empty());
}

TEST(SafetensorsWriter, LeavesNoFileWithoutCommit) {
  const TemporaryFolder folder;
  { const SafetensorsWriter file(folder / "out.safetensors", {}); }
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(SafetensorsWriter, WritesNoOtherBytesThanATensorTakes) {
  const TemporaryFolder folder;
  const std::vector<int64_t> shape = {2};
  const std::vector<TensorToPlace> places = {{"a", "F32", shape, 8, 4}};
  SafetensorsWriter file(folder / "out.safetensors", places);
  EXPECT_THROW(file.write(0, std::vector<std::byte>(7)), std::logic_error);
  EXPECT_THROW(file.write(1, {}), std::out_of_range);
}

TEST(SafetensorsWriter, LeavesNoFileWhenTheDiskIsFull) {
  const TemporaryFolder folder;
  const std::vector<float> many(1 << 16);
  struct rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const struct rlimit small = {.rlim_cur = 4096, .rlim_max = before.rlim_max};
  const auto ignore_before = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto problems = problems_of([&] {
    write_safetensors(folder / "out.safetensors",
                      {{"many", DType::kF32, {1 << 16}, std::as_bytes(std::span(many))}});
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, ignore_before);
  EXPECT_EQ(summary(problems), "io_error");
  EXPECT_TRUE(names_in(folder.path()).empty());
}

TEST(SafetensorsWriter, RefusesAFolderThatIsNotThere) {
  const TemporaryFolder folder;
  EXPECT_EQ(summary(problems_of([&] { write_safetensors(folder / "none/out.safetensors", {}); })),
            "io_error");
}

TEST(SafetensorsWriter, RefusesToReplaceWhatIsNoFile) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(summary(problems_of([&] { write_safetensors(folder.path(), {}); })), "io_error");
  EXPECT_EQ(summary(problems_of([&] { write_safetensors(folder / "pipe", {}); })), "io_error");
  EXPECT_TRUE(std::filesystem::is_fifo(folder / "pipe"));
}

TEST(TensorValues, AreRefusedInAnotherType) {
  const TemporaryFolder folder;
  write_bytes(folder / "x.safetensors",
              good_safetensors({counting("a", DType::kF32, {2}), {"b", "F4", {2}, "x"}}));
  const Catalog catalog = read_safetensors(folder / "x.safetensors");
  EXPECT_EQ(summary(problems_of([&] { read_integers(catalog, require(catalog, "a")); })), "unknown_dtype a");
  EXPECT_EQ(summary(problems_of([&] { read_floats(catalog, require(catalog, "b")); })), "unknown_dtype b");
  EXPECT_EQ(summary(problems_of([&] { require(catalog, "c"); })), "missing_tensor c");
}

TEST(TensorValues, AreReadWhereverTheyLie) {
  const TemporaryFolder folder;
  for (size_t padding = 0; padding < 4; ++padding) {
    write_bytes(folder / "x.safetensors", good_safetensors({counting("a", DType::kF32, {3})}, padding));
    const Catalog catalog = read_safetensors(folder / "x.safetensors");
    EXPECT_EQ(read_floats(catalog, require(catalog, "a")), (std::vector<float>{0, 1, 2}));
  }
}

}  // namespace
}  // namespace fulgur
