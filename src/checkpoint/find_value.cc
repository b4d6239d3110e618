#include "checkpoint/find_value.h"

#include <algorithm>
#include <cstring>

namespace fulgur {
namespace {

/// The first of `count` values whose bits are `wanted` under a mask.
template <typename Bits>
std::optional<int64_t> find_bits(const std::byte* values, int64_t count, Bits mask, Bits wanted) {
  constexpr int64_t kRun = 4096;  // a whole run is looked at without a branch
  const auto at = [&](int64_t i) {
    Bits bits;
    std::memcpy(&bits, values + static_cast<size_t>(i) * sizeof bits, sizeof bits);
    return (bits & mask) == wanted;
  };
  for (int64_t run = 0; run < count; run += kRun) {
    const int64_t end = std::min(count, run + kRun);
    int64_t found = 0;
    for (int64_t i = run; i < end; ++i) found += at(i) ? 1 : 0;
    if (found == 0) continue;
    for (int64_t i = run;; ++i) {
      if (at(i)) return i;
    }
  }
  return std::nullopt;
}

/// Values whose exponent has all bits set.
template <typename Bits>
std::optional<int64_t> find_exponent(const std::byte* values, int64_t count, Bits exponent) {
  return find_bits<Bits>(values, count, exponent, exponent);
}

}  // namespace

std::optional<int64_t> first_not_finite(DType dtype, const std::byte* values, int64_t count) {
  switch (dtype) {
    case DType::kBf16:
      return find_exponent<uint16_t>(values, count, 0x7f80);
    case DType::kF16:
      return find_exponent<uint16_t>(values, count, 0x7c00);
    case DType::kF32:
      return find_exponent<uint32_t>(values, count, 0x7f800000);
    case DType::kF8E4M3:
      return find_exponent<uint8_t>(values, count, 0x7f);
    default:
      return std::nullopt;  // every FP4 code is a number
  }
}

std::optional<int64_t> first_infinite_bf16(const std::byte* values, int64_t count) {
  return find_bits<uint16_t>(values, count, 0x7fff, 0x7f80);
}

}  // namespace fulgur
