#include "base/pending_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <csignal>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"

namespace fulgur {
namespace {

namespace fs = std::filesystem;

class PendingFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "fulgur-pending-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void fill(PendingFolder& folder, int num_files = 1) {
    constexpr std::array<std::byte, 3> kBytes = {};
    for (int i = 0; i < num_files; ++i) {
      OutputFile file = folder.create("file" + std::to_string(i));
      file.write_at(4, kBytes);
      file.finish();
    }
  }

  fs::path folder_;
};

TEST_F(PendingFolderTest, AppearsByCommitAlone) {
  {
    PendingFolder dropped(folder_ / "dropped");
    fill(dropped);
    EXPECT_FALSE(fs::exists(folder_ / "dropped"));
  }
  EXPECT_TRUE(fs::is_empty(folder_));
  for (const char* name : {"new", "slash/"}) {
    PendingFolder folder(folder_ / name);
    fill(folder);
    folder.commit();
    EXPECT_EQ(fs::file_size(folder_ / name / "file0"), 7U);
  }
}

TEST_F(PendingFolderTest, TakesThePlaceOfAnEmptyFolderAndOfOneBehindALink) {
  fs::create_directory(folder_ / "empty");
  fs::create_directory_symlink("empty", folder_ / "link");
  PendingFolder folder(folder_ / "link");
  fill(folder);
  folder.commit();
  EXPECT_TRUE(fs::exists(folder_ / "empty/file0"));
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
}

TEST_F(PendingFolderTest, LeavesNothingWhenASignalEndsTheProgram) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    const pid_t child = fork();
    if (child == 0) {
      PendingFolder folder(folder_ / "new");
      fill(folder, 300);  // more than one look into the folder shows
      raise(signal);
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << signal;
    EXPECT_TRUE(fs::is_empty(folder_)) << signal;
  }
}

TEST_F(PendingFolderTest, SaysThatItsNameWasTakenMeanwhileAndLeavesWhatTookIt) {
  for (const bool by_file : {false, true}) {
    const fs::path path = folder_ / (by_file ? "file" : "folder");
    PendingFolder late(path);
    fill(late);
    if (by_file) {
      std::ofstream(path) << "first";
    } else {
      PendingFolder first(path);
      fill(first);
      first.commit();
    }
    try {
      late.commit();
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_NE(error.problems().front().message.find("appeared meanwhile"), std::string::npos)
          << error.what();
    }
    EXPECT_TRUE(fs::exists(by_file ? path : path / "file0"));
  }
}

TEST_F(PendingFolderTest, MayHaveTheLongestNameThatThereIs) {
  std::string longest;  // of two bytes a character, so that a cut may fall within one
  while (longest.size() + 2 <= NAME_MAX) longest += "\u00e9";
  for (const std::string& name : {std::string(NAME_MAX, 'a'), longest, longest.substr(2) + "a"}) {
    PendingFolder folder(folder_ / name);
    fill(folder);
    folder.commit();
    EXPECT_TRUE(fs::exists(folder_ / name / "file0"));
  }
}

TEST_F(PendingFolderTest, KnowsWhatOtherProcessesLeftBesideIt) {
  const std::string name(NAME_MAX, 'a');
  for (const std::string path : {"out", name.c_str()}) {
    const PendingFolder own(folder_ / path);
    const std::string mine = own.path().filename().string();
    const std::string killed =
        mine.substr(0, mine.rfind('.', mine.size() - sizeof ".partial")) + ".1-7.partial";
    fs::create_directory(folder_ / killed);
    for (const char* other :
         {"out.1-.partial", "out.1-7.partials", "out2.1-7.partial", "out.1.partial", "out.1-7"})
      fs::create_directory(folder_ / other);
    EXPECT_EQ(others_pending(own.destination()), std::vector{killed});
  }
}

TEST_F(PendingFolderTest, IsNotTheFolderThatOneStandsIn) {
  const fs::path before = fs::current_path();
  fs::create_directory(folder_ / "here");
  fs::current_path(folder_ / "here");
  for (const fs::path& path : {fs::path("."), folder_ / "here", fs::path("../here/")})
    EXPECT_THROW(const PendingFolder folder(path), Error) << path;
  fs::current_path(before);
  EXPECT_TRUE(fs::is_empty(folder_ / "here"));
}

TEST_F(PendingFolderTest, IsRefusedWhereItCantBe) {
  std::ofstream(folder_ / "there") << "before";
  fs::create_symlink("nowhere", folder_ / "dangling");
  for (const fs::path& path :
       {folder_ / "none/new", folder_, folder_ / "there", folder_ / "there/new", folder_ / "dangling",
        fs::path(), folder_ / std::string(NAME_MAX + 1, 'a'), folder_ / std::string(5000, 'a')}) {
    try {
      const PendingFolder folder(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kIoError) << path;
    }
  }
}

}  // namespace
}  // namespace fulgur
