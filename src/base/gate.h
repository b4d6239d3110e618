#pragma once

#include <atomic>
#include <cstdint>

namespace fulgur {

/// A count of openings that threads wait on. A waiter spins at most 50 us, then sleeps in the kernel until
/// the next opening. It never yields: on a busy machine that hands a whole slice of time (some ms) to
/// somebody else at each wait, which is what std::atomic::wait of GCC's library does before it sleeps.
class Gate {
 public:
  /// Spinning pays where each waiter has a processor of its own; else it keeps the others from getting on.
  explicit Gate(bool spins) : spins_(spins) {}
  [[nodiscard]] uint32_t openings() const { return openings_.load(); }
  /// Releases all who wait. What the caller wrote before is seen after their wait.
  void open();
  /// Returns when openings() is no longer `seen`.
  void wait(uint32_t seen);

 private:
  [[nodiscard]] bool spun_open(uint32_t seen) const;

  const bool spins_;
  std::atomic<uint32_t> openings_{0};
  std::atomic<int> asleep_{0};
};

}  // namespace fulgur
