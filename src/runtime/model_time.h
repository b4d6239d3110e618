#pragma once

#include <chrono>
#include <cstdint>

namespace fulgur {

/// Wall time that steps spend in the model: decoder, MTP layer, heads. What else a step takes is scheduling,
/// sampling and bookkeeping.
class ModelTime {
 public:
  [[nodiscard]] std::chrono::nanoseconds total() const { return total_; }
  [[nodiscard]] uint64_t steps() const { return steps_; }
  void count_step() { ++steps_; }

  /// Calls f() and counts it.
  template <typename F>
  auto of(const F& f) {
    const Counted counted(total_);
    return f();
  }

 private:
  using Clock = std::chrono::steady_clock;
  class Counted {
   public:
    explicit Counted(std::chrono::nanoseconds& total) : total_(total) {}
    ~Counted() { total_ += Clock::now() - start_; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;

   private:
    std::chrono::nanoseconds& total_;
    const Clock::time_point start_ = Clock::now();
  };

  std::chrono::nanoseconds total_{0};
  uint64_t steps_ = 0;
};

}  // namespace fulgur
