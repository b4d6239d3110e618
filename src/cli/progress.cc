#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "cli/streams.h"

namespace fulgur::cli {
namespace {

constexpr uint64_t kBarWidth = 24;
constexpr auto kRedraw = std::chrono::milliseconds(100);

std::string with_prefix(double value, const std::string& unit) {
  for (const char* prefix : {"", "k", "M", "G"}) {
    if (value < 1000)
      return fmt::format("{:.{}f} {}{}", value, *prefix == 0 && value >= 10 ? 0 : 1, prefix, unit);
    value /= 1000;
  }
  return fmt::format("{:.1f} T{}", value, unit);
}

}  // namespace

Progress::Progress(std::string what, std::string unit)
    : what_(std::move(what)), unit_(std::move(unit)), terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (drawn_) write_log("\r\x1b[K");
}

void Progress::update(uint64_t done, uint64_t total) {
  const auto now = Clock::now();
  if (!terminal_ || total == 0 || (drawn_ && now - last_ < kRedraw && done < total)) return;
  last_ = now;
  drawn_ = true;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double rate = elapsed > 0 ? static_cast<double>(done) / elapsed : 0;
  const uint64_t filled = std::min(done, total) * kBarWidth / total;
  const std::string eta =
      rate > 0 ? fmt::format("{:.0f} s left", static_cast<double>(total - std::min(done, total)) / rate) : "";
  print_log("\r\x1b[K{} [{:#<{}}{:.<{}}] {}/{} {}/s {}", what_, "", filled, "", kBarWidth - filled, done,
            total, with_prefix(rate, unit_), eta);
}

}  // namespace fulgur::cli
