#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/matrix.h"

namespace fulgur {

struct Backend;

/// A stack of back-end memory: allocations are freed by going back to a mark, never one by one. Grows in
/// blocks, which it keeps until it is destroyed. Every allocation is 64-byte aligned and not initialized.
class Arena {
 public:
  explicit Arena(const Backend& backend) : backend_(backend) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Asks the back end for room so that the next `bytes` cost no allocation, in a captured step say. Only
  /// while the arena is empty.
  void reserve(size_t bytes);
  void* allocate(size_t bytes);
  template <typename T>
  T* allocate_array(int64_t count) {
    return static_cast<T*>(allocate(static_cast<size_t>(count) * sizeof(T)));
  }
  template <typename T>
  Matrix<T> matrix(int64_t rows, int64_t cols) {
    return {allocate_array<T>(rows * cols), rows, cols};
  }
  Operand operand(DType dtype, int64_t rows, int64_t cols);
  /// A copy of host values.
  template <typename T>
  T* upload(std::span<const T> values) {
    return static_cast<T*>(upload_bytes(values.data(), values.size_bytes()));
  }
  template <typename T>
  T* upload(const std::vector<T>& values) {
    return upload(std::span<const T>(values));
  }

  struct Mark {
    size_t block = 0;
    size_t used = 0;
  };
  [[nodiscard]] Mark mark() const { return {current_, blocks_.empty() ? 0 : blocks_[current_].used}; }
  void release_to(Mark mark);
  /// The most bytes that were ever allocated at once.
  [[nodiscard]] size_t peak_bytes() const { return peak_; }

 private:
  void* upload_bytes(const void* values, size_t bytes);

  struct Block {
    std::byte* data = nullptr;
    size_t size = 0;
    size_t used = 0;
  };
  const Backend& backend_;
  std::vector<Block> blocks_;
  size_t current_ = 0;
  size_t live_ = 0;
  size_t peak_ = 0;
};

/// Gives back at the end of a scope what was allocated in it.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release_to(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace fulgur
