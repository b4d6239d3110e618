#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "base/matrix.h"

namespace fulgur {

struct Backend;
class ThreadTeam;

/// A stack of back-end memory: allocations are freed by going back to a mark, never one by one. Grows in
/// blocks, which it keeps until it is destroyed. Every allocation is 64-byte aligned and not initialized.
///
/// One that `only_counts` is for knowing what ops take: it hands out addresses with no memory behind them.
/// With such an arena ops read nothing of their operands but shapes and the batch, and compute nothing. CPU
/// alone.
class Arena {
 public:
  explicit Arena(const Backend& backend, bool only_counts = false)
      : backend_(backend), only_counts_(only_counts) {}
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// Asks the back end for room so that the next `bytes` cost no allocation, in a captured step say, and
  /// takes its memory from the system on the team's threads (Backend::settle). Only while the arena is empty.
  void reserve(size_t bytes, ThreadTeam& team);
  void* allocate(size_t bytes);
  template <typename T>
  T* allocate_array(int64_t count) {
    return static_cast<T*>(allocate(static_cast<size_t>(count) * sizeof(T)));
  }
  /// For what an op on a CPU writes while it sets up: there is memory behind it in any case.
  template <typename T>
  T* table(int64_t count) {
    static_assert(std::is_trivially_destructible_v<T> && alignof(T) <= alignof(std::max_align_t));
    return static_cast<T*>(allocate_table(static_cast<size_t>(count) * sizeof(T)));
  }
  template <typename T>
  Matrix<T> matrix(int64_t rows, int64_t cols) {
    return {allocate_array<T>(rows * cols), rows, cols};
  }
  Operand operand(DType dtype, int64_t rows, int64_t cols);
  /// A copy of host values, of which there is memory in any case.
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
  [[nodiscard]] Mark mark() const;
  void release_to(Mark mark);
  [[nodiscard]] bool only_counts() const { return only_counts_; }
  /// The most bytes that were ever allocated at once.
  [[nodiscard]] size_t peak_bytes() const { return peak_; }

 private:
  void* allocate_table(size_t bytes);
  void* upload_bytes(const void* values, size_t bytes);

  struct Block {
    std::byte* data = nullptr;
    size_t size = 0;
    size_t used = 0;
  };
  const Backend& backend_;
  const bool only_counts_;
  std::vector<std::unique_ptr<std::byte[]>> tables_;  // of one that only counts; then there are no blocks
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
