#pragma once

#include <vector>

#include "ops/paged_cache.h"
#include "ops/token_batch.h"
#include "unit/ops/machine.h"

namespace fulgur::test {

/// A part of one sequence: `count` new tokens behind `cached` older ones.
struct Part {
  int cached = 0;
  int count = 1;
};

/// The same parts, none of which begins before `first_position`.
std::vector<Part> beginning_at(int first_position, std::vector<Part> parts);

/// A step's batch over permuted pages, some of which nobody owns.
class Batch {
 public:
  Batch(Machine& machine, Random& random, const std::vector<Part>& parts, int vocab = 1,
        int first_position = 0);

  /// The rows [first, first + count) as a batch of their own.
  [[nodiscard]] TokenBatch rows(Side side, int first = 0, int count = -1) const;
  [[nodiscard]] int num_tokens() const { return num_tokens_; }
  [[nodiscard]] int num_sequences() const { return static_cast<int>(parts_.size()); }
  [[nodiscard]] int max_context() const { return max_context_; }
  [[nodiscard]] int num_pages() const { return num_pages_; }
  [[nodiscard]] int position(int row) const { return static_cast<int>(position_->before(row, 0)); }
  [[nodiscard]] int sequence(int row) const { return static_cast<int>(sequence_->before(row, 0)); }
  [[nodiscard]] uint32_t fault_after(int sequence) const {
    return static_cast<uint32_t>(fault_->after(sequence, 0));
  }
  /// The token of the pools, page * 64 + slot, where a sequence keeps a position.
  [[nodiscard]] int64_t pool_token(int sequence, int position) const;
  /// One past the last position of a sequence in this step.
  [[nodiscard]] int length(int sequence) const {
    return parts_[static_cast<size_t>(sequence)].cached + parts_[static_cast<size_t>(sequence)].count;
  }
  /// Allows the op to set fault bits.
  void may_fault() { fault_->is_output(); }

 private:
  std::vector<Part> parts_;
  int num_tokens_ = 0;
  int max_context_ = 0;
  int first_position_ = 0;
  int num_pages_ = 0;
  Buffer* token_ = nullptr;
  Buffer* position_ = nullptr;
  Buffer* sequence_ = nullptr;
  Buffer* pages_ = nullptr;
  Buffer* fault_ = nullptr;
};

/// A pool of index keys; row = page, elements (FP8: bytes) as PagedKeys lays them out. Filled with NaN: set
/// what is cached.
class KeyPool {
 public:
  KeyPool(Machine& machine, const Batch& batch, DType dtype, int width);
  [[nodiscard]] PagedKeys keys(Side side) const;
  /// FP8: the code of this value.
  void set(int64_t pool_token, int dim, double value);
  void set_scale(int64_t pool_token, float scale);
  /// FP8: the value of the code.
  [[nodiscard]] double after(int64_t pool_token, int dim) const;
  [[nodiscard]] float scale_after(int64_t pool_token) const;
  /// The op may write this token's key, its padding and scale included.
  void may_change(const std::vector<int64_t>& pool_tokens);
  /// The page of this token arrives while the op's kernels already run.
  void page_comes_late(int64_t pool_token) { pool_->row_comes_late(pool_token / kPageTokens); }

 private:
  [[nodiscard]] bool fp8() const { return dtype_ == DType::kF8E4M3; }
  /// The first byte of a token's scale in its page.
  [[nodiscard]] int64_t scale_byte(int64_t slot) const { return int64_t{kPageTokens} * width_ + slot * 4; }

  DType dtype_;
  int width_;
  Buffer* pool_;
};

/// A pool of latents; row = token, elements (FP8: bytes) as PagedLatents lays them out. Filled with NaN: set
/// what is cached.
class LatentPool {
 public:
  LatentPool(Machine& machine, const Batch& batch, DType dtype, int kv_lora, int rope);
  [[nodiscard]] PagedLatents latents(Side side) const;
  /// FP8: a component of the latent is the code of this value.
  void set(int64_t pool_token, int i, double value);
  void set_scale(int64_t pool_token, int group, float scale);
  /// A normal entry, its scales included.
  void fill_normal(Random& random, int64_t pool_token);
  /// FP8: a component of the latent is the value of its code.
  [[nodiscard]] double after(int64_t pool_token, int i) const;
  [[nodiscard]] float scale_after(int64_t pool_token, int group) const;
  /// The op may write these tokens' entries.
  void may_change(const std::vector<int64_t>& pool_tokens);

 private:
  [[nodiscard]] bool fp8() const { return layout_.dtype == DType::kF8E4M3; }
  [[nodiscard]] int64_t scale_byte(int group) const { return layout_.kv_lora() + 4 * group; }
  /// Of a component of kp.
  [[nodiscard]] int64_t rope_byte(int i) const {
    return scale_byte(layout_.num_scales()) + 2 * (i - layout_.kv_lora());
  }

  PagedLatents layout_;
  Buffer* pool_;
};

}  // namespace fulgur::test
