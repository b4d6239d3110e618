#include "base/thread_team.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <system_error>

#include "base/available_cpus.h"
#include "base/error.h"
#include "base/remedy.h"
#include "base/thread_stack.h"

namespace fulgur {
ThreadTeam::ThreadTeam(int size)
    : size_(size), spins_(size <= available_cpus()), region_(spins_), finished_(spins_), barrier_(spins_) {
  check_stack_limit();
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
                        .todo = std::string(kFewerThreads)});
  } catch (...) {
    end_threads();
    throw;
  }
}

ThreadTeam::ThreadTeam(int size, OnlyCounts /*unused*/)
    : size_(size), spins_(false), region_(spins_), finished_(spins_), barrier_(spins_) {}

ThreadTeam::~ThreadTeam() { end_threads(); }

void ThreadTeam::end_threads() {
  stop_.store(true);
  region_.open();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadTeam::run_erased(Call call, void* object) {
  if (size_ == 1) return call(object, 0);
  if (threads_.empty()) throw std::logic_error("thread team: it has no threads to run on");
  call_ = call;
  object_ = object;
  running_.store(size_ - 1);
  const uint32_t finished = finished_.openings();
  region_.open();
  call(object, 0);
  finished_.wait(finished);
}

void ThreadTeam::work(int member) {
  for (uint32_t regions = 0;; ++regions) {
    region_.wait(regions);
    if (stop_.load()) return;
    call_(object_, member);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) finished_.open();
  }
}

void ThreadTeam::barrier() {
  if (size_ == 1) return;
  const uint32_t passed = barrier_.openings();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_.open();
    return;
  }
  barrier_.wait(passed);
}

Share share_of(int64_t total, int member, int size, int64_t grain) {
  const int64_t grains = (total + grain - 1) / grain;
  return {std::min(total, grains * member / size * grain),
          std::min(total, grains * (member + 1) / size * grain)};
}

}  // namespace fulgur
