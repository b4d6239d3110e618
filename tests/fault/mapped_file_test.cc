#include "base/mapped_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include "base/output_file.h"
#include "checkpoint/load_plan.h"
#include "support/checkpoint_files.h"

namespace fulgur {
namespace {

constexpr size_t kPage = 4096;

uint64_t sum(std::span<const std::byte> bytes) {
  uint64_t total = 0;
  for (const std::byte byte : bytes) total += static_cast<uint64_t>(byte);
  return total;
}

class MappedFileTest : public ::testing::Test {
 protected:
  std::shared_ptr<const MappedFile> open_of_size(size_t bytes) {
    write_bytes(path_, std::string(bytes, '\1'));
    return MappedFile::open(path_);
  }
  void shrink_to(size_t bytes) { std::filesystem::resize_file(path_, bytes); }

  TemporaryFolder folder_;
  const std::filesystem::path path_ = folder_ / "file";
};

TEST_F(MappedFileTest, HoldsTheBytesOfTheFile) {
  const auto file = open_of_size(3 * kPage + 5);
  EXPECT_EQ(file->bytes().size(), 3 * kPage + 5);
  EXPECT_EQ(sum(file->bytes()), 3 * kPage + 5);
  EXPECT_EQ(file->file_name(), "file");
  EXPECT_FALSE(file->damaged());
  EXPECT_NO_THROW(file->throw_if_damaged());
}

TEST_F(MappedFileTest, MayBeEmpty) {
  const auto file = open_of_size(0);
  EXPECT_TRUE(file->bytes().empty());
  EXPECT_NO_THROW(file->throw_if_damaged());
}

TEST_F(MappedFileTest, ReadsZerosWhereTheFileShrankAndSaysSo) {
  const auto file = open_of_size(1000 * kPage);
  shrink_to(kPage);
  EXPECT_EQ(sum(file->bytes()), kPage);
  EXPECT_TRUE(file->damaged());
  const auto problems = problems_of([&] { file->throw_if_damaged(); });
  ASSERT_EQ(summary(problems), "io_error");
  EXPECT_EQ(problems[0].file, "file");
}

TEST_F(MappedFileTest, WhatWasReleasedIsReadFromTheFileAgain) {
  const auto file = open_of_size(100 * kPage + 5);
  EXPECT_EQ(sum(file->bytes()), 100 * kPage + 5);
  file->release(7, 50 * kPage);
  file->release(90 * kPage + 1, 1000 * kPage);
  EXPECT_EQ(sum(file->bytes()), 100 * kPage + 5);
  EXPECT_NO_THROW(file->throw_if_damaged());
  file->release(0, file->bytes().size());
  shrink_to(kPage);
  EXPECT_EQ(sum(file->bytes()), kPage);
  file->release(0, file->bytes().size());
  EXPECT_EQ(sum(file->bytes()), kPage);
  EXPECT_THROW(file->throw_if_damaged(), Error);
}

TEST_F(MappedFileTest, SurvivesManyThreadsReadingWhatIsGone) {
  const auto file = open_of_size(1000 * kPage);
  shrink_to(0);
  std::vector<std::thread> readers;
  for (size_t i = 0; i < 8; ++i) {
    readers.emplace_back([&, i] {
      for (size_t page = 1000; page-- > 0;) {
        EXPECT_EQ(sum(file->bytes().subspan((page + i * 100) % 1000 * kPage, kPage)), 0U);
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  EXPECT_TRUE(file->damaged());
}

TEST_F(MappedFileTest, ACutInsideTheLastPageIsNoticedToo) {
  const auto file = open_of_size(kPage + 100);
  shrink_to(kPage + 50);
  EXPECT_EQ(sum(file->bytes()), kPage + 50);  // no signal: the rest of the page reads as zeros
  EXPECT_FALSE(file->damaged());
  EXPECT_EQ(summary(problems_of([&] { file->throw_if_damaged(); })), "io_error");
}

/// Other bytes in the place of all that the file has, and the file as long as before.
void overwrite(const std::filesystem::path& path, size_t bytes) {
  const int descriptor = open(path.c_str(), O_WRONLY);
  const std::string other(bytes, '\2');
  ASSERT_EQ(pwrite(descriptor, other.data(), bytes, 0), static_cast<ssize_t>(bytes));
  close(descriptor);
}

/// Directly after opening too, when the clock that stamps files might not have moved.
TEST_F(MappedFileTest, AWriteInPlaceIsNoticed) {
  for (int i = 0; i < 10; ++i) {
    std::ofstream(path_) << std::string(kPage, '\1');
    const auto file = MappedFile::open(path_);
    overwrite(path_, kPage);
    EXPECT_EQ(summary(problems_of([&] { file->throw_if_damaged(); })), "io_error");
  }
}

/// It can't be told from what is harmless (an attribute; a second name, made and removed).
TEST_F(MappedFileTest, AWriteInPlaceWhoseTimeIsSetBackIsTold) {
  const auto file = open_of_size(kPage);
  const auto modified = std::filesystem::last_write_time(path_);
  overwrite(path_, kPage);
  std::filesystem::last_write_time(path_, modified);
  testing::internal::CaptureStderr();
  EXPECT_NO_THROW(file->throw_if_damaged());
  EXPECT_NO_THROW(file->throw_if_damaged());
  const std::string told = testing::internal::GetCapturedStderr();
  EXPECT_NE(told.find("a write and setting the time back"), std::string::npos) << told;
  EXPECT_EQ(std::ranges::count(told, '\n'), 1) << "once: " << told;
}

TEST_F(MappedFileTest, ATouchIsToldAsWhatWasSeen) {
  write_bytes(path_, std::string(kPage, '\1'));
  const std::chrono::sys_seconds year_2001{std::chrono::seconds(1'000'000'000)};
  std::filesystem::last_write_time(path_, std::chrono::file_clock::from_sys(year_2001));
  const auto file = MappedFile::open(path_);
  std::filesystem::last_write_time(path_,
                                   std::chrono::file_clock::from_sys(year_2001 + std::chrono::seconds(5)));
  const auto problems = problems_of([&] { file->throw_if_damaged(); });
  ASSERT_EQ(summary(problems), "io_error");
  EXPECT_EQ(problems[0].found,
            "its time of modification went from 2001-09-09 01:46:40.000000000 UTC to 2001-09-09 "
            "01:46:45.000000000 UTC");
}

TEST_F(MappedFileTest, NamesAndPermissionsAreNoChangeOfTheContents) {
  namespace fs = std::filesystem;
  const std::vector<std::function<void()>> changes = {
      [&] { fs::permissions(path_, fs::perms::owner_read); },
      [&] { fs::create_hard_link(path_, folder_ / "second"); },
      [&] { fs::rename(path_, folder_ / "elsewhere"); },
      [&] { fs::remove(path_); },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    const auto file = open_of_size(2 * kPage);
    changes[i]();
    EXPECT_EQ(sum(file->bytes()), 2 * kPage);
    EXPECT_NO_THROW(file->throw_if_damaged()) << i;
    fs::remove(path_);
  }
}

/// Whether the system tells who has a file of the tests' folder open for writing.
bool grants_leases(const std::filesystem::path& path) {
  write_bytes(path, "1");
  const int descriptor = open(path.c_str(), O_RDONLY);
  const bool granted = fcntl(descriptor, F_SETLEASE, F_RDLCK) == 0;
  close(descriptor);
  return granted;
}

TEST_F(MappedFileTest, RefusesAFileThatIsBeingWritten) {
  if (!grants_leases(path_)) GTEST_SKIP() << "this file system grants no leases";
  write_bytes(path_, std::string(kPage, '\1'));
  int descriptor = open(path_.c_str(), O_RDWR);
  const auto refused = [&] { return problems_of([&] { MappedFile::open(path_); }); };
  auto problems = refused();
  ASSERT_EQ(summary(problems), "io_error");
  EXPECT_NE(problems[0].message.find("is being written"), std::string::npos) << problems[0].message;
  EXPECT_FALSE(problems[0].expected.empty() || problems[0].found.empty() || problems[0].todo.empty());

  void* map = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  EXPECT_EQ(summary(refused()), "io_error") << "mapped for writing";
  munmap(map, kPage);
  EXPECT_NO_THROW(MappedFile::open(path_));
}

/// A write stamps the file when it begins, not when it ends: what is opened meanwhile may be half of each.
TEST_F(MappedFileTest, WhatIsOpenedDuringAWriteIsWholeOrRefused) {
  constexpr size_t kBytes = size_t{32} << 20;
  const std::string other(kBytes, '\2');
  for (int i = 0; i < 10; ++i) {
    write_bytes(path_, std::string(kBytes, '\1'));
    const int descriptor = open(path_.c_str(), O_WRONLY);
    std::thread writer([&] {
      EXPECT_EQ(pwrite(descriptor, other.data(), kBytes, 0), static_cast<ssize_t>(kBytes));
      close(descriptor);
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(i));
    problems_of([&] {
      const auto file = MappedFile::open(path_);
      const uint64_t read = sum(file->bytes());
      file->throw_if_damaged();
      EXPECT_TRUE(read == kBytes || read == 2 * kBytes) << read;
    });
    writer.join();
  }
}

/// A lease that is held when somebody opens the file for writing has the system send a signal.
TEST_F(MappedFileTest, ManyOpenAFileWhileOthersOpenItForWriting) {
  const auto held = open_of_size(kPage);
  std::atomic<bool> done{false};
  std::thread writer([&] {
    while (!done) close(open(path_.c_str(), O_WRONLY));
  });
  std::vector<std::thread> readers;
  for (int i = 0; i < 3; ++i) {
    readers.emplace_back([&] {
      for (int k = 0; k < 500; ++k) problems_of([&] { MappedFile::open(path_); });
    });
  }
  for (std::thread& reader : readers) reader.join();
  done = true;
  writer.join();
  EXPECT_NO_THROW(held->throw_if_damaged());
}

TEST_F(MappedFileTest, ReadersDoNotRefuseOneAnother) {
  const auto held = open_of_size(kPage);
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] {
      for (int k = 0; k < 200; ++k) EXPECT_NO_THROW(MappedFile::open(path_));
    });
  }
  for (std::thread& reader : readers) reader.join();
}

/// write(2) says EFAULT, which is no fault of the file that is written.
TEST_F(MappedFileTest, ThatShrankIsBlamedForItNotTheFileItIsWrittenTo) {
  const auto file = open_of_size(4 * kPage);
  shrink_to(kPage);
  OutputFile out(folder_ / "out", folder_ / "out");
  EXPECT_NO_THROW(out.append(file->bytes()));
  EXPECT_NO_THROW(out.write_at(0, file->bytes().subspan(2 * kPage + 7, kPage)));
  const auto problems = problems_of([&] { file->throw_if_damaged(); });
  ASSERT_EQ(summary(problems), "io_error");
  EXPECT_EQ(problems[0].file, "file");
  EXPECT_EQ(problems[0].expected, "16384 bytes, as when it was mapped");
  EXPECT_EQ(problems[0].found, "it had 16384 bytes and now has 4096");
}

TEST_F(MappedFileTest, AFileThatIsReplacedUnderItsNameStaysWhole) {
  const auto file = open_of_size(2 * kPage);
  write_bytes(folder_ / "other", "new");
  std::filesystem::rename(folder_ / "other", path_);
  EXPECT_EQ(sum(file->bytes()), 2 * kPage);
  EXPECT_NO_THROW(file->throw_if_damaged());
}

TEST_F(MappedFileTest, DamageToOneFileIsNotBlamedOnAnother) {
  const auto damaged = open_of_size(2 * kPage);
  write_bytes(folder_ / "good", std::string(2 * kPage, '\1'));
  const auto good = MappedFile::open(folder_ / "good");
  shrink_to(0);
  EXPECT_EQ(sum(damaged->bytes()), 0U);
  EXPECT_EQ(sum(good->bytes()), 2 * kPage);
  EXPECT_FALSE(good->damaged());
}

TEST_F(MappedFileTest, ASlotThatIsUsedAgainStartsUndamaged) {
  for (int i = 0; i < 3; ++i) {
    const auto file = open_of_size(2 * kPage);
    EXPECT_FALSE(file->damaged());
    shrink_to(0);
    EXPECT_EQ(sum(file->bytes()), 0U);
    EXPECT_TRUE(file->damaged());
  }
}

TEST_F(MappedFileTest, RefusesWhatIsNotThereOrNoFile) {
  EXPECT_EQ(summary(problems_of([&] { MappedFile::open(folder_ / "none"); })), "io_error");
  EXPECT_EQ(summary(problems_of([&] { MappedFile::open(folder_.path()); })), "io_error");
  std::filesystem::create_symlink("circle", folder_ / "circle");
  const auto circle = problems_of([&] { MappedFile::open(folder_ / "circle"); });
  ASSERT_EQ(summary(circle), "io_error");
  EXPECT_NE(circle[0].message.find("circle"), std::string::npos);
}

/// Reads past the end of a file that no MappedFile maps: a real bus error.
void read_a_lost_page(const std::filesystem::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY);
  const auto* data = static_cast<const char*>(mmap(nullptr, 2 * kPage, PROT_READ, MAP_SHARED, descriptor, 0));
  const volatile char value = data[kPage];
  static_cast<void>(value);
}

using MappedFileDeathTest = MappedFileTest;

TEST_F(MappedFileDeathTest, ABusErrorElsewhereStillKillsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto file = open_of_size(kPage);
  EXPECT_DEATH(read_a_lost_page(path_), "");
}

TEST_F(MappedFileDeathTest, ASentBusErrorStillKillsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto file = open_of_size(kPage);
  EXPECT_DEATH(kill(getpid(), SIGBUS), "");
}

TEST_F(MappedFileDeathTest, AnEarlierHandlerGetsTheBusErrorsThatAreNotOurs) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        std::signal(SIGBUS, [](int) { _exit(42); });
        const auto file = open_of_size(kPage);
        read_a_lost_page(path_);
      },
      ::testing::ExitedWithCode(42), "");
}

TEST_F(MappedFileTest, ALoadFromAFileThatShrankIsAnIoError) {
  constexpr int64_t kRows = 100;
  constexpr int64_t kCols = 1000;
  const std::vector<Parameter> parameters = {
      {.name = "a",
       .rows = kRows,
       .cols = kCols,
       .spellings = {{{"a.weight", {{kRows, "rows"}, {kCols, "cols"}}}}},
       .held_as = {WeightForm::kF32}},
      {.name = "b",
       .rows = kRows,
       .cols = kCols,
       .spellings = {{{"b.weight", {{kRows, "rows"}, {kCols, "cols"}}}}},
       .held_as = {WeightForm::kBf16}}};
  const std::string bytes = good_safetensors({counting("a.weight", DType::kBf16, {kRows, kCols}),
                                              counting("b.weight", DType::kBf16, {kRows, kCols})});
  for (const size_t left : {bytes.size() - 1, bytes.size() / 2, size_t{100}, size_t{0}}) {
    write_bytes(folder_ / "model.safetensors", bytes);
    const Catalog catalog = read_catalog(folder_.path());
    const LoadPlan plan = resolve(parameters, {}, catalog);
    ASSERT_TRUE(plan.problems.empty());
    std::filesystem::resize_file(folder_ / "model.safetensors", left);
    EXPECT_EQ(summary(problems_of([&] { execute(plan, parameters, catalog, 2); })), "io_error") << left;
  }
}

}  // namespace
}  // namespace fulgur
