#include "base/gate.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fulgur {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr int kPausesPerClockRead = 32;

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// The word that the kernel compares when it puts a thread to sleep.
uint32_t* word_of(std::atomic<uint32_t>& value) {
  static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t) &&
                std::atomic<uint32_t>::is_always_lock_free);
  return reinterpret_cast<uint32_t*>(&value);
}

}  // namespace

// Both sides are sequentially consistent: a waiter is counted before it looks at `openings_` for the last
// time, and an opening is counted before it looks for sleepers, so that one of the two sees the other.
void Gate::open() {
  openings_.fetch_add(1);
  if (asleep_.load() > 0)
    syscall(SYS_futex, word_of(openings_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void Gate::wait(uint32_t seen) {
  if (spins_ && spun_open(seen)) return;
  asleep_.fetch_add(1);
  while (openings_.load() == seen)
    syscall(SYS_futex, word_of(openings_), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
  asleep_.fetch_sub(1);
}

/// Looks until it opens or kSpinTime has passed; says which.
bool Gate::spun_open(uint32_t seen) const {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (openings_.load(std::memory_order_acquire) != seen) return true;
      pause_cpu();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace fulgur
