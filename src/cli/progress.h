#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fulgur::cli {

/// A bar with rate and time to go on stderr, where stderr is a terminal; silent elsewhere. Redraws at most
/// ten times a second.
class Progress {
 public:
  Progress(std::string what, std::string unit);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(uint64_t done, uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  std::string unit_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_{};
};

}  // namespace fulgur::cli
