#include "base/pending_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <fstream>
#include <vector>

#include "base/error.h"

namespace fulgur {
namespace {

class PendingFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "fulgur-pending-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      found.push_back(entry.path().filename());
    return found;
  }

  std::filesystem::path folder_;
};

constexpr std::array<std::byte, 3> kBytes = {};

TEST_F(PendingFileTest, AppearsByCommitAlone) {
  {
    PendingFile dropped(folder_ / "dropped");
    dropped.append(kBytes);
    EXPECT_EQ(names().size(), 1U);
    EXPECT_FALSE(std::filesystem::exists(folder_ / "dropped"));
  }
  EXPECT_TRUE(names().empty());
  PendingFile file(folder_ / "file");
  file.append(kBytes);
  file.commit();
  EXPECT_EQ(names(), std::vector<std::string>{"file"});
  EXPECT_EQ(std::filesystem::file_size(folder_ / "file"), kBytes.size());
}

TEST_F(PendingFileTest, LeavesNothingWhenASignalEndsTheProgram) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF,
                           SIGXCPU, SIGXFSZ, SIGIO, SIGPWR, SIGABRT, SIGRTMIN, SIGRTMAX}) {
    const pid_t child = fork();
    if (child == 0) {
      const rlimit no_core = {};
      setrlimit(RLIMIT_CORE, &no_core);
      std::array<PendingFile, 2> files = {PendingFile(folder_ / "one"), PendingFile(folder_ / "two")};
      files[1].append(kBytes);
      raise(signal);
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal) << signal;
    EXPECT_TRUE(names().empty()) << signal;
  }
}

TEST_F(PendingFileTest, LeavesSignalsAloneThatTheProgramIgnores) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGHUP, SIG_IGN);
    PendingFile file(folder_ / "file");
    raise(SIGHUP);
    file.commit();
    _exit(7);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  EXPECT_EQ(names(), std::vector<std::string>{"file"});
}

TEST_F(PendingFileTest, IsRefusedBeforeTheWorkWhereItCantBe) {
  std::ofstream(folder_ / "there") << "before";
  for (const std::filesystem::path& path :
       {folder_ / "none/file", folder_, folder_ / "", folder_ / "there/file", std::filesystem::path(),
        std::filesystem::path("/dev/null"), folder_ / std::string(5000, 'a')}) {
    try {
      check_writable(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kIoError) << path;
    }
  }
  check_writable(folder_ / "there");
  check_writable(folder_ / "new");
  EXPECT_EQ(names(), std::vector<std::string>{"there"});
  EXPECT_EQ(std::filesystem::file_size(folder_ / "there"), 6U);
}

}  // namespace
}  // namespace fulgur
