#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

namespace fulgur {

/// Rows of logits computed at once: enough for matrix-matrix work, little memory with a vocabulary of
/// 150,000.
constexpr size_t kLogitsRows = 128;

/// f(rows) for all of them, kLogitsRows at a time.
template <typename Row, typename F>
void for_logits_rows(std::span<const Row> all, const F& f) {
  for (size_t begin = 0; begin < all.size(); begin += kLogitsRows)
    f(all.subspan(begin, std::min(kLogitsRows, all.size() - begin)));
}

}  // namespace fulgur
