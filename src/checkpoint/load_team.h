#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/thread_team.h"
#include "checkpoint/load_plan.h"

namespace fulgur {

/// The threads of one load and its progress. `total_bytes` are all that its tasks will read.
class LoadTeam {
 public:
  LoadTeam(int num_threads, uint64_t total_bytes, LoadProgress progress)
      : team_(std::max(1, num_threads)), total_bytes_(total_bytes), progress_(std::move(progress)) {
    report();
  }

  [[nodiscard]] int size() const { return team_.size(); }

  /// Bytes that are loaded without a task: mapped.
  void add(uint64_t bytes) { done_bytes_ += bytes; }

  /// Performs tasks 0..count-1, each on some member: `perform(task, member)` gives the bytes it read. It must
  /// not throw.
  template <typename Perform>
  void run(size_t count, Perform perform) {
    std::atomic<size_t> next{0};
    team_.run([&](int member) {
      for (size_t i = next++; i < count; i = next++) {
        done_bytes_ += perform(i, member);
        if (member == 0) report();
      }
    });
    report();
  }

 private:
  void report() const {
    if (progress_) progress_(done_bytes_, total_bytes_);
  }

  ThreadTeam team_;
  std::atomic<uint64_t> done_bytes_{0};
  const uint64_t total_bytes_;
  const LoadProgress progress_;
};

}  // namespace fulgur
