#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fulgur {

enum class OpKind : uint8_t {
  kEmbed,
  kMtpInput,
  kRmsNorm,
  kAddRmsNorm,
  kLinear,
  kLmHead,
  kAttentionPrepare,
  kMlaPrepare,
  kIndexerPrepare,
  kIndexerSelect,
  kIndexerScores,
  kSparseMla,
  kDenseMla,
  kMlaOutput,
  kFfn,
  kMoe,
  kSample,
};
constexpr size_t kNumOpKinds = 17;

/// "embed", "rms_norm", ...
std::string_view name(OpKind kind);

/// Wall time spent in each op since the last reset.
class Profile {
 public:
  struct Line {
    uint64_t calls = 0;
    std::chrono::nanoseconds time{0};
  };
  void add(OpKind kind, std::chrono::nanoseconds time) {
    Line& line = lines_[static_cast<size_t>(kind)];
    ++line.calls;
    line.time += time;
  }
  void reset() { lines_ = {}; }
  [[nodiscard]] const Line& line(OpKind kind) const { return lines_[static_cast<size_t>(kind)]; }

 private:
  std::array<Line, kNumOpKinds> lines_{};
};

}  // namespace fulgur
