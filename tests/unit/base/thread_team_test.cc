#include "base/thread_team.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>

#include <chrono>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace fulgur {
namespace {

using namespace std::chrono_literals;

class Team : public testing::TestWithParam<int> {};

TEST_P(Team, OnlyTellsItsSizeWhereItHasNoThreads) {
  ThreadTeam team(GetParam(), ThreadTeam::OnlyCounts{});
  EXPECT_EQ(team.size(), GetParam());
  int calls = 0;
  const auto run = [&] { team.run([&](int) { ++calls; }); };
  if (GetParam() > 1) {
    EXPECT_THROW(run(), std::logic_error);
    EXPECT_EQ(calls, 0);
  }
}

// Plain (not atomic) counters: under the thread sanitizer this also proves the team's memory ordering.
TEST_P(Team, RunsTheBodyOnceOnEachMemberInEveryRegion) {
  ThreadTeam team(GetParam());
  std::vector<int> calls(static_cast<size_t>(team.size()));
  constexpr int kRegions = 1000;
  for (int region = 0; region < kRegions; ++region) {
    team.run([&](int member) { ++calls[static_cast<size_t>(member)]; });
  }
  EXPECT_EQ(calls, std::vector<int>(calls.size(), kRegions));
}

TEST_P(Team, ShowsEachRegionWhatTheOneBeforeWrote) {
  ThreadTeam team(GetParam());
  std::vector<int> values(static_cast<size_t>(team.size()));
  int expected = 0;
  for (int region = 0; region < 200; ++region) {
    const int total = std::accumulate(values.begin(), values.end(), 0);
    ASSERT_EQ(total, expected);
    // Each member reads what its neighbour wrote in the last region.
    std::vector<int> next(values.size());
    team.run([&](int member) {
      const size_t neighbour = static_cast<size_t>(member + 1) % values.size();
      next[static_cast<size_t>(member)] = values[neighbour] + 1;
    });
    values = next;
    expected += team.size();
  }
}

TEST_P(Team, PassesABarrierOnlyWhenAllHaveCome) {
  ThreadTeam team(GetParam());
  const auto size = static_cast<size_t>(team.size());
  constexpr int kPhases = 60;
  std::vector<int> phase_of(size);
  std::vector<int> wrong(size);
  team.run([&](int member) {
    const auto me = static_cast<size_t>(member);
    for (int phase = 1; phase <= kPhases; ++phase) {
      phase_of[me] = phase;
      team.barrier();
      for (size_t other = 0; other < size; ++other) wrong[me] += phase_of[other] != phase ? 1 : 0;
      team.barrier();
    }
  });
  EXPECT_EQ(wrong, std::vector<int>(size, 0));
}

TEST_P(Team, WakesFromSleep) {
  ThreadTeam team(GetParam());
  for (int region = 0; region < 20; ++region) {
    std::this_thread::sleep_for(region % 4 * 1ms);  // longer than it spins, mostly
    std::vector<int> calls(static_cast<size_t>(team.size()));
    team.run([&](int member) { ++calls[static_cast<size_t>(member)]; });
    ASSERT_EQ(calls, std::vector<int>(calls.size(), 1));
  }
}

TEST_P(Team, EndsWhetherItsMembersSpinOrSleep) {
  for (int i = 0; i < 50; ++i) {
    const ThreadTeam unused(GetParam());
    if (i % 10 == 0) std::this_thread::sleep_for(1ms);
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Team, testing::Values(1, 2, 3, 7));

TEST(Share, CutsTheWholeIntoRunsOfWholeGrains) {
  for (const int64_t total : {0, 1, 2, 7, 16, 17, 100, 1000}) {
    for (const int size : {1, 2, 3, 7, 64}) {
      for (const int64_t grain : {1, 3, 16}) {
        int64_t next = 0;
        int64_t smallest = total;
        int64_t largest = 0;
        for (int member = 0; member < size; ++member) {
          const Share share = share_of(total, member, size, grain);
          ASSERT_EQ(share.begin, next);
          ASSERT_GE(share.end, share.begin);
          if (share.end != total) {
            ASSERT_EQ(share.end % grain, 0) << total << " by " << size << " in " << grain;
          }
          smallest = std::min(smallest, share.end - share.begin);
          largest = std::max(largest, share.end - share.begin);
          next = share.end;
        }
        EXPECT_EQ(next, total);
        EXPECT_LE(largest - smallest, 2 * grain - 1) << total << " by " << size << " in " << grain;
      }
    }
  }
}

TEST(ThreadTeam, RefusesMoreThreadsThanTheSystemGives) {
  pthread_attr_t before;
  pthread_attr_t greedy;
  ASSERT_EQ(pthread_getattr_default_np(&before), 0);
  ASSERT_EQ(pthread_getattr_default_np(&greedy), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&greedy, size_t{1} << 45), 0);  // of address space that has 2^47 bytes
  ASSERT_EQ(pthread_setattr_default_np(&greedy), 0);
  std::string message;
  try {
    ThreadTeam team(8);
  } catch (const Error& error) {
    message = error.what();
  }
  pthread_setattr_default_np(&before);
  EXPECT_TRUE(message.starts_with("The threads to compute on can't be started.")) << message;
}

TEST(ThreadTeam, RefusesStacksThatKernelsWouldOverflow) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_STACK, &before), 0);
  const rlimit little{.rlim_cur = 64 << 10, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_STACK, &little), 0);
  std::string found;
  try {
    ThreadTeam team(3);
  } catch (const Error& error) {
    found = error.problems().front().found;
  }
  ASSERT_EQ(setrlimit(RLIMIT_STACK, &before), 0);
  EXPECT_EQ(found, "65536");
  ThreadTeam(3).run([](int) {});
}

}  // namespace
}  // namespace fulgur
