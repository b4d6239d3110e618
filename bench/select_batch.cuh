#pragma once

// What the selection's benches run over: a pool of pages larger than the L2 cache, and batches of sequences
// whose page tables rotate through it.

#include <numeric>
#include <vector>

#include "cuda/select_setup.cuh"
#include "kernels/cuda/cluster_choice.h"

namespace fulgur::cuda_test {

constexpr int kTopk = 2048;

/// Calls of a graph that each read `bytes` of their own: at least 64, over at least 200 MB, so that none
/// finds its pages in the L2 cache.
inline int calls_over(double bytes) {
  constexpr int kCalls = 64;
  constexpr double kRotated = 200e6;
  if (bytes < kRotated / 1e6) return kCalls;  // next to nothing is read
  return std::max(kCalls, static_cast<int>(std::ceil(kRotated / bytes)));
}

/// Rows of scores of a kind.
inline std::vector<float> drawn_scores(int rows, int length, Scores kind) {
  std::vector<float> scores(static_cast<size_t>(rows) * length);
  for (size_t i = 0; i < scores.size(); ++i)
    scores[i] = score_at(9, i, static_cast<int64_t>(i) % length, length, kind);
  return scores;
}

/// The pool of pages and, for each call of a graph, page tables over the next part of it.
class Pool {
 public:
  explicit Pool(int num_pages)
      : num_pages_(num_pages),
        order_(scattered(num_pages, 3)),
        keys(static_cast<size_t>(num_pages) * cuda::kIndexPageBytes) {
    fill_keys<<<2048, kDim>>>(keys.get(), num_pages, Codes::kReal);
    must(cudaDeviceSynchronize(), "fill");
  }

  /// The scores of every sequence of `context` tokens become scores of a kind (of one of a few rows), if the
  /// pool is a multiple of it and queries are Batch::ask_for_scales().
  void make_scores(Scores kind, int context) {
    constexpr int kDifferentRows = 4;  // the host draws slowly
    fill_keys<<<2048, kDim>>>(keys.get(), num_pages_, Codes::kOnes);
    must(cudaDeviceSynchronize(), "fill");
    const std::vector<float> rows = drawn_scores(kDifferentRows, context, kind);
    std::vector<float> scales(static_cast<size_t>(num_pages_) * 64);
    const int pages = context / 64;
    for (int i = 0; i < num_pages_; ++i) {
      const float* from = &rows[static_cast<size_t>(i / pages % kDifferentRows * context + i % pages * 64)];
      std::copy_n(from, 64, &scales[static_cast<size_t>(order_[i]) * 64]);
    }
    put_scales(keys.get(), scales);
  }

  /// [calls][sequences][stride], of each sequence as many as its context has pages.
  [[nodiscard]] std::vector<int32_t> tables(int calls, const std::vector<int>& contexts, int stride) const {
    std::vector<int32_t> tables(static_cast<size_t>(calls) * contexts.size() * stride);
    size_t used = 0;
    for (size_t i = 0; i < calls * contexts.size(); ++i) {
      const int pages = (contexts[i % contexts.size()] + 63) / 64;
      for (int page = 0; page < pages; ++page) tables[i * stride + page] = order_[used++ % num_pages_];
    }
    return tables;
  }

 private:
  int num_pages_;
  std::vector<int32_t> order_;

 public:
  DeviceArray<uint8_t> keys;
};

/// Rows of given scores, which are those of `different` by turns.
struct GivenScores {
  GivenScores(int rows, int length, const std::vector<float>& different)
      : length(length),
        rows(rows),
        scores(static_cast<size_t>(rows) * length),
        position(std::vector<int32_t>(rows, length - 1)),
        sequence(std::vector<int32_t>(rows, 0)),
        pages(scattered(length / 64, 4)),
        positions(static_cast<size_t>(rows) * kTopk),
        slots(static_cast<size_t>(rows) * kTopk),
        fault(1) {
    const int num_different = static_cast<int>(different.size()) / length;
    for (int row = 0; row < rows; ++row) {
      must(cudaMemcpy(scores.get() + static_cast<int64_t>(row) * length,
                      &different[static_cast<size_t>(row % num_different) * length],
                      static_cast<size_t>(length) * sizeof(float), cudaMemcpyHostToDevice),
           "scores");
    }
  }
  [[nodiscard]] cuda::TopkArguments arguments() const {
    return {scores.get(),
            length,
            {position.get(), sequence.get(), pages.get(), length / 64, rows, length},
            {kTopk, positions.get(), slots.get(), fault.get()}};
  }

  int length;
  int rows;
  DeviceArray<float> scores;
  DeviceArray<int32_t> position;
  DeviceArray<int32_t> sequence;
  DeviceArray<int32_t> pages;
  DeviceArray<int32_t> positions;
  DeviceArray<int32_t> slots;
  DeviceArray<uint32_t> fault;
};

/// Sequences of `contexts` keys with `tokens` new tokens, each the same number or its own.
struct Batch {
  Batch(const Pool& pool, int heads, int sequences, int tokens, int context)
      : Batch(pool, heads, std::vector<int>(sequences, context), tokens, context) {}
  /// `bound`: what the launch knows of the contexts.
  Batch(const Pool& pool, int heads, const std::vector<int>& contexts, int tokens, int bound)
      : Batch(pool, heads, contexts, std::vector<int>(contexts.size(), tokens), bound) {}
  Batch(const Pool& pool, int heads, const std::vector<int>& contexts, const std::vector<int>& tokens,
        int bound)
      : pool(pool),
        heads(heads),
        rows(std::accumulate(tokens.begin(), tokens.end(), 0)),
        context(bound),
        keys(scored(contexts)),
        pages((bound + 63) / 64),
        calls(calls_over(bytes())),
        q_bytes(heads * kDim),
        q(static_cast<size_t>(rows) * q_bytes),
        weights(static_cast<size_t>(rows) * heads),
        position(rows),
        sequence(rows),
        tables(pool.tables(calls, contexts, pages)),
        positions(static_cast<size_t>(rows) * kTopk),
        slots(static_cast<size_t>(rows) * kTopk),
        fault(contexts.size()),
        sequences(static_cast<int>(contexts.size())) {
    fill(Codes::kReal);
    std::vector<int32_t> host_position;
    std::vector<int32_t> host_sequence;
    for (int of = 0; of < sequences; ++of) {
      for (int i = 0; i < tokens[of]; ++i) {
        host_position.push_back(contexts[of] - tokens[of] + i);
        host_sequence.push_back(of);
      }
    }
    position.upload(host_position);
    sequence.upload(host_sequence);
  }
  void ask_for_scales() { fill(Codes::kOnes); }
  [[nodiscard]] cuda::DecodeArguments arguments(int call) const {
    const int32_t* table = tables.get() + static_cast<int64_t>(call) * sequences * pages;
    return {{q.get(),
             q_bytes,
             weights.get(),
             heads,
             pool.keys.get(),
             {position.get(), sequence.get(), table, pages, rows, context},
             kTopk},
            heads,
            cuda::rows_that_share(rows, sequences),
            {kTopk, positions.get(), slots.get(), fault.get()},
            nullptr,
            0};
  }
  /// Shorter ones are not.
  static int64_t scored(const std::vector<int>& contexts) {
    return std::accumulate(contexts.begin(), contexts.end(), int64_t{0},
                           [](int64_t sum, int context) { return sum + (context > kTopk ? context : 0); });
  }
  /// Of the keys that are read.
  [[nodiscard]] double bytes() const {
    return static_cast<double>(keys) * static_cast<double>(cuda::kIndexPageBytes) / 64;
  }

  void fill(Codes codes) {
    fill_queries<<<2048, kDim>>>(q.get(), weights.get(), rows, heads, codes);
    must(cudaDeviceSynchronize(), "fill");
  }

  const Pool& pool;
  int heads;
  int rows;
  int context;   // a bound
  int64_t keys;  // of all sequences that are scored
  int pages;     // of a row of the page table
  int calls;     // with page tables of their own
  int q_bytes;
  DeviceArray<uint8_t> q;
  DeviceArray<float> weights;
  DeviceArray<int32_t> position;
  DeviceArray<int32_t> sequence;
  DeviceArray<int32_t> tables;
  DeviceArray<int32_t> positions;
  DeviceArray<int32_t> slots;
  DeviceArray<uint32_t> fault;
  int sequences;
};

/// Row scores, then top-k.
inline cudaError_t launch_two_kernels(const cuda::DecodeArguments& arguments, float* scores,
                                      const cuda::LaunchOptions& options) {
  const int64_t stride = arguments.scores.rows.max_context;
  const cudaError_t status = cuda::launch_row_scores(arguments, scores, stride, options);
  if (status != cudaSuccess) return status;
  return cuda::launch_topk({scores, stride, arguments.scores.rows, arguments.out}, options);
}

/// A prompt from an empty cache: chunks of rows whose scores fit in 64 MiB.
class Prompt {
 public:
  Prompt(const Pool& pool, int heads, int length)
      : data(pool, heads, 1, length, length),
        length_(length),
        rows_(std::min<int>(length, static_cast<int>((size_t{64} << 20) /
                                                     (4 * length + cuda::prompt_scratch_bytes(heads, 1))) /
                                        64 * 64)),
        scratch_(cuda::prompt_scratch_bytes(heads, rows_)),
        scores_(static_cast<size_t>(rows_) * length) {}

  cudaError_t launch(bool scores, bool topk, const cuda::LaunchOptions& options) const {
    for (int first = 0; first < length_; first += rows_) {
      cuda::DecodeArguments chunk = cuda::rows_of(data.arguments(0), first, std::min(rows_, length_ - first));
      chunk.scores.rows.max_context = std::min(length_, first + rows_);
      cudaError_t status = cudaSuccess;
      if (scores) {
        status = cuda::launch_prompt_scores(chunk.scores, data.heads, scratch_.get(), scores_.get(), length_,
                                            options);
      }
      if (status == cudaSuccess && topk)
        status = cuda::launch_topk({scores_.get(), length_, chunk.scores.rows, chunk.out}, options);
      if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
  }

  Batch data;

 private:
  int length_;
  int rows_;
  DeviceArray<uint8_t> scratch_;
  DeviceArray<float> scores_;
};

}  // namespace fulgur::cuda_test
