#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "kernels_support.h"
#include "ops/paged_cache.h"
#include "ops/token_batch.h"

namespace fulgur::test {

/// New tokens of one sequence: `count` of them from `first` on.
struct Span {
  int first = 0;
  int count = 1;
};

/// A batch over shuffled pages. `order` numbers the sequences: a sequence has the same pages in every batch
/// that has the same seed, whoever else is in it.
class StepBatch {
 public:
  StepBatch(const std::vector<Span>& spans, const std::vector<int>& sequences, int num_sequences,
            int pages_each)
      : pages_each_(pages_each) {
    std::vector<int32_t> shuffled(static_cast<size_t>(num_sequences * pages_each));
    std::iota(shuffled.begin(), shuffled.end(), 0);
    std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(11));
    for (size_t i = 0; i < spans.size(); ++i) {
      for (int t = 0; t < spans[i].count; ++t) {
        position_.push_back(spans[i].first + t);
        sequence_.push_back(static_cast<int32_t>(i));
        max_context_ = std::max(max_context_, spans[i].first + t + 1);
      }
      const auto* first = shuffled.data() + static_cast<ptrdiff_t>(sequences[i]) * pages_each;
      pages_.insert(pages_.end(), first, first + pages_each);
    }
    fault_.resize(spans.size());
  }
  /// One sequence, number 0 of 1.
  StepBatch(Span span, int pages_each) : StepBatch({span}, {0}, 1, pages_each) {}

  TokenBatch view() {
    const auto num_sequences = static_cast<int>(fault_.size());
    return {.num_tokens = rows(),
            .num_sequences = num_sequences,
            .max_context = max_context_,
            .position = position_.data(),
            .sequence = sequence_.data(),
            .pages = {pages_.data(), num_sequences, pages_each_},
            .fault = fault_.data()};
  }
  [[nodiscard]] int rows() const { return static_cast<int>(position_.size()); }
  [[nodiscard]] int position(int row) const { return position_[static_cast<size_t>(row)]; }
  [[nodiscard]] uint32_t fault(int sequence) const { return fault_[static_cast<size_t>(sequence)]; }
  /// The page and slot of a position of the batch's i-th sequence.
  [[nodiscard]] int page_of(int i, int position) const {
    return pages_[static_cast<size_t>(i * pages_each_ + position / kPageTokens)];
  }

 private:
  int pages_each_;
  int max_context_ = 0;
  std::vector<int32_t> position_;
  std::vector<int32_t> sequence_;
  std::vector<int32_t> pages_;
  std::vector<uint32_t> fault_;
};

/// Rows [first, first + count) of an operand.
inline Operand rows_of(Values& values, int64_t first, int64_t count) {
  Operand all = values.operand();
  all.data = values.dtype == DType::kF32 ? static_cast<void*>(values.wide.data() + first * values.cols)
                                         : static_cast<void*>(values.narrow.data() + first * values.cols);
  all.rows = count;
  return all;
}

inline Values empty_values(DType dtype, int64_t rows, int64_t cols) {
  Values v{.dtype = dtype, .rows = rows, .cols = cols};
  const auto count = static_cast<size_t>(rows * cols);
  if (dtype == DType::kF32) {
    v.wide.assign(count, std::numeric_limits<float>::quiet_NaN());
  } else {
    v.narrow.assign(count, 0x7fff);
  }
  return v;
}

inline bool same_bits(const Values& a, const Values& b) {
  return a.narrow == b.narrow && a.wide.size() == b.wide.size() &&
         (a.wide.empty() || std::memcmp(a.wide.data(), b.wide.data(), a.wide.size() * sizeof(float)) == 0);
}

}  // namespace fulgur::test
