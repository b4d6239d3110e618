#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "ops/arena.h"
#include "ops/backend.h"
#include "ops/context.h"
#include "reference/table.h"
#include "unit/ops/buffer.h"

namespace fulgur::test {

/// The form of what stands beside a weight and can't be quantized.
constexpr WeightForm plain_beside(WeightForm form) { return is_plain(form) ? form : WeightForm::kBf16; }

/// A weight in any form, with its scales.
class WeightBuffer {
 public:
  /// `weight` says everything but where the data and scales lie.
  WeightBuffer(const Weight& weight, Buffer& data, Buffer* scales)
      : weight_(weight), data_(data), scales_(scales) {}
  [[nodiscard]] Weight weight(Side side) const {
    Weight w = weight_;
    w.data = data_.data(side);
    if (scales_ != nullptr) w.scales = scales_->data(side);
    return w;
  }

 private:
  Weight weight_;
  Buffer& data_;
  Buffer* scales_;
};

/// What a context of so many threads is queued on, where the back end has streams.
cuda::Stream* stream_for(const Backend& backend, int threads);

/// A back end, contexts of 1, 2 and 3 threads on it, and the buffers of one case.
class Machine {
 public:
  static constexpr int kMostThreads = 3;

  explicit Machine(const Backend& backend);

  [[nodiscard]] const Backend& backend() const { return backend_; }
  [[nodiscard]] Context& context(int threads) { return contexts_[static_cast<size_t>(threads - 1)]; }

  Buffer& add(DType dtype, int64_t rows, int64_t cols, Buffer::Layout layout = {});
  /// A weight as a mapped file may hold it: aligned to its elements only unless it is to be aligned to 64
  /// bytes, normal values of deviation 1 / sqrt(cols), or codes and scales that come to about that. FP8 has
  /// blocks, rows or a matrix of one scale, and may be rows of a larger matrix (aligned: blocks, a matrix of
  /// its own); NVFP4 of a width that its groups don't divide is bf16.
  WeightBuffer& add_weight(Random& random, WeightForm form, int64_t rows, int64_t cols, bool aligned = false);
  /// The gain of a norm, in a plain form: around 1.
  Buffer& add_gain(Random& random, WeightForm form, int64_t cols);
  /// What an op has to write, with room between the rows.
  Buffer& add_output(DType dtype, int64_t rows, int64_t cols);

  [[nodiscard]] const std::vector<std::unique_ptr<Buffer>>& buffers() const { return buffers_; }

  void upload();
  void download();
  /// EXPECTs that nothing was written but what each buffer allows.
  void expect_no_trespass() const;
  [[nodiscard]] std::vector<std::vector<std::byte>> snapshot() const;

 private:
  const Backend& backend_;
  std::vector<std::unique_ptr<ThreadTeam>> teams_;
  std::vector<std::unique_ptr<Arena>> arenas_;
  std::vector<Context> contexts_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::vector<std::unique_ptr<WeightBuffer>> weights_;
};

/// EXPECTs each actual(r, c) within the expected number's own error.
void expect_close(const reference::Table& expected, const std::function<double(int64_t r, int64_t c)>& actual,
                  const std::string& what);
/// The same of all elements of a buffer after the op.
void expect_close(const reference::Table& expected, const Buffer& actual, const std::string& what);

}  // namespace fulgur::test
