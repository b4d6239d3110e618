#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "base/gate.h"

namespace fulgur {

/// A fixed team of threads that runs one parallel region at a time; the caller is member 0. Waiting members
/// spin for a while if there are processors for all of them, then sleep. One team per Context; not
/// re-entrant.
class ThreadTeam {
 public:
  /// size >= 1. Throws `device` where the system doesn't give that many threads.
  explicit ThreadTeam(int size);
  /// Has no threads, and runs nothing: for those who only ask its size.
  struct OnlyCounts {};
  ThreadTeam(int size, OnlyCounts /*unused*/);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  [[nodiscard]] int size() const { return size_; }

  /// Calls body(member) once on each member, member = 0..size-1, and returns when all are done. `body` must
  /// not throw.
  template <typename Body>
  void run(Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    run_erased([](void* object, int member) { (*static_cast<Plain*>(object))(member); },
               const_cast<void*>(static_cast<const void*>(&body)));
  }

  /// Inside run(): waits until every member has come here. All writes before it are seen after it.
  void barrier();

 private:
  using Call = void (*)(void*, int);
  void run_erased(Call call, void* object);
  void work(int member);
  void end_threads();

  const int size_;
  const bool spins_;
  std::vector<std::thread> threads_;
  Call call_ = nullptr;
  void* object_ = nullptr;
  Gate region_;                  // opened when one starts
  Gate finished_;                // opened when all members but 0 are through with it
  Gate barrier_;                 // opened when all have come
  std::atomic<int> running_{0};  // members other than 0 that haven't finished the region
  std::atomic<int> arrived_{0};  // at the barrier
  std::atomic<bool> stop_{false};
};

/// The part of [0, total) that `member` of `size` takes when it is cut into equal runs of multiples of
/// `grain`.
struct Share {
  int64_t begin = 0;
  int64_t end = 0;
};
Share share_of(int64_t total, int member, int size, int64_t grain = 1);

}  // namespace fulgur
