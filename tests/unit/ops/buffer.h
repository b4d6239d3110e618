#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/matrix.h"
#include "base/weight.h"
#include "ops/backend.h"
#include "unit/ops/random.h"

namespace fulgur::test {

/// Where an op's operands lie: in host memory for the oracle, in the back end's for its kernel.
enum class Side { kHost, kBackend };

/// A matrix of one dtype, twice: in host memory as it was before the op, and in back-end memory, where guard
/// bytes stand before, behind and, with a stride, between the rows. Guards, padding and what the op has to
/// write are filled with a pattern that is NaN in every floating-point dtype, so that neither reading too
/// much nor writing too little goes unnoticed.
class Buffer {
 public:
  struct Layout {
    int64_t padding = 0;  // elements from the end of a row to the next
    int64_t shift = 0;    // elements by which the start misses its 64-byte alignment
  };
  Buffer(const Backend& backend, DType dtype, int64_t rows, int64_t cols, Layout layout);
  Buffer(const Backend& backend, DType dtype, int64_t rows, int64_t cols)
      : Buffer(backend, dtype, rows, cols, Layout{}) {}
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  [[nodiscard]] DType dtype() const { return dtype_; }
  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] int64_t cols() const { return cols_; }

  // Filling, before the op. Values are rounded to the dtype.
  Buffer& set(int64_t r, int64_t c, double value);
  template <typename Value>  // double(int64_t r, int64_t c)
  Buffer& fill(const Value& value) {
    for (int64_t r = 0; r < rows_; ++r) {
      for (int64_t c = 0; c < cols_; ++c) set(r, c, static_cast<double>(value(r, c)));
    }
    return *this;
  }
  Buffer& fill_normal(Random& random, double deviation, double mean = 0);
  /// The op may write the elements for which this holds (default: none).
  Buffer& may_change(const std::function<bool(int64_t r, int64_t c)>& writable);
  /// ... or all of them.
  Buffer& is_output();

  /// Computed by the kernel before the op's own: such inputs may arrive while the op's kernels already run.
  Buffer& comes_late() {
    late_ = {{0, before_.size()}};
    return *this;
  }
  /// This row alone.
  void row_comes_late(int64_t row) { late_.push_back({offset(row, 0), offset(row, cols_) - offset(row, 0)}); }
  struct Bytes {
    size_t first;
    size_t count;
  };
  [[nodiscard]] const std::vector<Bytes>& late() const { return late_; }

  void upload();
  /// All bytes of the back end's copy, and what upload() puts there.
  [[nodiscard]] std::byte* device_bytes() const { return device_; }
  [[nodiscard]] const std::vector<std::byte>& bytes_before() const { return before_; }
  void download();
  /// What the op must not touch, and did: a sentence; empty if it left all of it alone.
  [[nodiscard]] std::string trespass() const;
  /// All bytes after the last download(), for comparing runs.
  [[nodiscard]] const std::vector<std::byte>& bytes_after() const { return after_; }
  [[nodiscard]] double after(int64_t r, int64_t c) const;
  [[nodiscard]] double before(int64_t r, int64_t c) const;

  // Views for op structs; rows [first, first + count).
  [[nodiscard]] void* data(Side side, int64_t first_row = 0) const;
  [[nodiscard]] Operand operand(Side side, int64_t first = 0, int64_t count = -1) const;
  [[nodiscard]] Weight weight(Side side) const;
  template <typename T>
  [[nodiscard]] Matrix<T> matrix(Side side, int64_t first = 0, int64_t count = -1) const {
    return {static_cast<T*>(data(side, first)), count < 0 ? rows_ : count, cols_, stride_};
  }

 private:
  [[nodiscard]] size_t offset(int64_t r, int64_t c) const;  // in bytes, from the start of the block
  [[nodiscard]] double read(const std::vector<std::byte>& bytes, int64_t r, int64_t c) const;

  const Backend& backend_;
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  int64_t stride_;
  size_t start_;  // of the first element in the block, in bytes
  std::vector<std::byte> before_;
  std::vector<std::byte> after_;
  std::vector<bool> writable_;  // a flag a byte
  std::byte* device_ = nullptr;
  std::vector<Bytes> late_;
};

}  // namespace fulgur::test
