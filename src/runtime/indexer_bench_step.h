#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "ops/buffer.h"
#include "ops/indexer_prepare.h"
#include "ops/indexer_select.h"
#include "runtime/indexer_bench.h"

namespace fulgur {

/// `copies` of the same values on the device, one behind another: what rotates through them reads them cold.
class RotatedData {
 public:
  template <typename T>
  RotatedData(const Backend& backend, const std::vector<T>& values, size_t copies = 1)
      : copies_(copies),
        stride_((values.size() * sizeof(T) + 255) / 256 * 256),
        buffer_(backend, stride_ * copies) {
    for (size_t i = 0; i < copies; ++i)
      backend.upload(copy(static_cast<int>(i)), values.data(), values.size() * sizeof(T));
  }
  [[nodiscard]] size_t copies() const { return copies_; }
  /// The copy of one call.
  [[nodiscard]] void* copy(int call = 0) const {
    return static_cast<std::byte*>(buffer_.data()) + static_cast<size_t>(call) % copies_ * stride_;
  }

 private:
  size_t copies_;
  size_t stride_;
  BackendBuffer buffer_;
};

/// So many copies of `bytes` take 200 MB, four times what the L2 cache holds.
size_t copies_for(size_t bytes);
/// Random words that differ from seed to seed: never zeros, on which kernels run faster.
std::vector<uint32_t> random_words(size_t count, uint32_t seed);
/// The same, over and over behind as many as the L2 cache doesn't hold: gigabytes would take the host long.
std::vector<uint32_t> repeated_words(size_t count, uint32_t seed);

/// The device data of one decode step of the indexer: the last tokens of sequences of the same length, over
/// permuted pages. Weights and keys rotate; activations, scores and what is computed stay where they are.
class IndexerBenchStep {
 public:
  /// `tokens` is a multiple of bench.tokens_per_sequence.
  IndexerBenchStep(const IndexerBench& bench, const Backend& backend, int tokens);

  [[nodiscard]] int tokens() const { return batch_.num_tokens; }
  [[nodiscard]] size_t projection_bytes() const;  // of weights
  [[nodiscard]] size_t query_bytes() const;
  [[nodiscard]] size_t key_bytes() const { return keys_layout_.bytes(); }
  /// Calls that read every copy of everything once.
  [[nodiscard]] size_t copies() const;

  /// The op of one call, whose weights live as long as `f` runs.
  void with_prepare(IndexerProjection mode, int call,
                    const std::function<void(const IndexerPrepare&)>& f) const;
  [[nodiscard]] IndexerSelect select(int call) const;
  /// Where the projection alone goes: f32 [tokens, dI + nI].
  [[nodiscard]] Operand projected() const;

 private:
  struct Sizes {
    int hidden;
    int q_lora;
    IndexerShape shape;
  };
  static Sizes sizes_of(BenchModel model);
  [[nodiscard]] int rows() const { return sizes_.shape.head_dim + sizes_.shape.num_heads; }
  [[nodiscard]] int query_rows() const { return sizes_.shape.head_dim * sizes_.shape.num_heads; }
  [[nodiscard]] Operand query() const;
  [[nodiscard]] Matrix<float> head_weights() const;
  [[nodiscard]] PagedKeys keys(int call) const;
  void make_rope();
  void make_batch(int tokens);
  void make_weights();
  void make_activations();
  void make_keys();
  template <typename T, typename Make>
  std::unique_ptr<RotatedData> random_data(size_t count, uint32_t seed, Make make, size_t copies = 1) const;

  IndexerBench bench_;
  const Backend& backend_;
  Sizes sizes_;
  TokenBatch batch_;
  RopeTable rope_;
  PagedKeys keys_layout_;
  std::unique_ptr<RotatedData> cos_, sin_, position_, token_, sequence_, pages_, fault_;
  std::unique_ptr<RotatedData> projection_, query_weights_, scales_, norm_;
  std::unique_ptr<RotatedData> x_, q_latent_, query_, head_weights_, keys_;
  BackendBuffer projected_, selected_, slots_;
};

}  // namespace fulgur
