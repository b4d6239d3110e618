#include "base/thread_team.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/error.h"

namespace fulgur {
namespace {

constexpr auto kSpinTime = std::chrono::microseconds(50);
constexpr int kPausesPerClockRead = 32;

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

/// Spins until done() or kSpinTime has passed; says which.
template <typename Done>
bool spin_until(Done done) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  while (true) {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      pause_cpu();
    }
    if (std::chrono::steady_clock::now() >= deadline) return false;
  }
}

/// Spins, then sleeps until `value` is no longer `old`. Whoever changes it calls notify.
template <typename T>
void wait_while(const std::atomic<T>& value, T old) {
  if (spin_until([&] { return value.load(std::memory_order_acquire) != old; })) return;
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadTeam::ThreadTeam(int size) : size_(size) {
  threads_.reserve(static_cast<size_t>(size - 1));
  try {
    for (int member = 1; member < size; ++member) threads_.emplace_back([this, member] { work(member); });
  } catch (const std::system_error& error) {
    const size_t started = threads_.size();
    end_threads();
    throw Error(Problem{.kind = ErrorKind::kDevice,
                        .message = "The threads to compute on can't be started.",
                        .expected = std::to_string(size - 1) + " beside the first",
                        .found = std::to_string(started) + ", then: " + error.code().message(),
                        .todo = "use fewer (--threads), or raise the limits of threads and memory"});
  } catch (...) {
    end_threads();
    throw;
  }
}

ThreadTeam::~ThreadTeam() { end_threads(); }

void ThreadTeam::end_threads() {
  {
    const std::lock_guard lock(mutex_);
    stop_.store(true);
    region_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::run_erased(Call call, void* object) {
  if (size_ > 1) {
    call_ = call;
    object_ = object;
    running_.store(size_ - 1);
    region_.fetch_add(
        1);  // sequentially consistent with asleep_: a member that missed it is seen asleep here
    if (asleep_.load() > 0) {
      const std::lock_guard lock(mutex_);
      wake_.notify_all();
    }
  }
  call(object, 0);
  for (int left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    wait_while(running_, left);
  }
}

void ThreadTeam::work(int member) {
  uint64_t seen = 0;
  while (true) {
    if (!spin_until([&] { return region_.load(std::memory_order_acquire) != seen; })) {
      std::unique_lock lock(mutex_);
      asleep_.fetch_add(1);
      wake_.wait(lock, [&] { return region_.load() != seen; });
      asleep_.fetch_sub(1);
    }
    if (stop_.load()) return;
    ++seen;
    call_(object_, member);
    running_.fetch_sub(1, std::memory_order_acq_rel);
    running_.notify_one();
  }
}

void ThreadTeam::barrier() {
  if (size_ == 1) return;
  const uint32_t passed = barriers_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    barriers_.fetch_add(1, std::memory_order_release);
    barriers_.notify_all();
    return;
  }
  wait_while(barriers_, passed);
}

Share share_of(int64_t total, int member, int size, int64_t grain) {
  const int64_t grains = (total + grain - 1) / grain;
  return {std::min(total, grains * member / size * grain),
          std::min(total, grains * (member + 1) / size * grain)};
}

}  // namespace fulgur
