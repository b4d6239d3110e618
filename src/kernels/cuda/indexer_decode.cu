// Decode: scores of a step's query rows against their sequences' cached keys, and the exact top-k of each
// row, in one kernel.
//
// A cluster of up to 16 blocks takes a row. Each block has a contiguous slice of the pages and scores it
// (decode_scores.cuh). Scores become ordered keys in shared memory, counted for the selection's first pass on
// the way, and topk_select.cuh does the rest. A row that may read everything isn't scored.
//
// Bytes: 132 a cached key and row. Shared memory: 4 bytes a score of the slice, 132 bytes a head, 42 KiB and
// more for selecting, the rest pages on their way.

#include "kernels/cuda/cluster_choice.h"
#include "kernels/cuda/decode_scores.cuh"
#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/topk_select.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = kDecodeThreads;

/// A row.
template <int kHeads>
class Decode {
 public:
  __device__ Decode(const DecodeArguments& arguments, const DecodeLayout& layout, uint8_t* shared, int row,
                    int blocks, int rank)
      : arguments_(arguments),
        row_(row),
        blocks_(blocks),
        rank_(rank),
        keys_(reinterpret_cast<uint32_t*>(shared + layout.keys)),
        scores_(arguments.scores, layout, shared),
        select_(
            SelectScratch{reinterpret_cast<uint32_t*>(shared + layout.select), static_cast<uint32_t>(blocks)},
            static_cast<uint32_t>(rank)) {}

  __device__ void run(bool early_keys) {
    if (!early_keys) {
      open();
      wait();
    }
    scores_.take_slice(row_, blocks_, rank_, [&] {
      if (early_keys) open();
      select_.clear();
    });
    __syncthreads();
    const bool scored = length() > arguments_.out.topk;
    if (early_keys) {
      if (scored) read_early();
      wait();
    }
    if (!scored) {
      if (rank_ == 0) write_first(length());
      return;
    }
    score();
    __syncthreads();
    select();
  }

 private:
  __device__ void open() {
    scores_.open();
    select_.open();
  }
  __device__ void wait() {
    select_.await_cluster();
    wait_for_predecessor();
    allow_successor();
  }
  [[nodiscard]] __device__ int length() const { return scores_.position() + 1; }
  [[nodiscard]] __device__ int first_key() const { return scores_.first_page() * kPageKeys; }

  /// Pages that hold no key of this launch's rows.
  __device__ void read_early() {
    const int32_t* sequence = arguments_.scores.rows.sequence + row_;
    if (row_ > 0 && sequence[-1] == sequence[0]) return;
    // Where all read at once, queries would wait behind a whole ring.
    const int stages = is_small(blocks_) ? kClusterStages / 2 : kMostStages;
    const int before = scores_.position() / kPageKeys - scores_.first_page();
    scores_.fill_ring_early(stages, [&](int page) { return page < before; });
  }

  __device__ void score() {
    scores_.template load_queries<1>([&](int) { return row_; }, [&] { scores_.fill_ring(); });
    const int begin = first_key();
    scores_.run(0, 1, 0, scores_.num_pages(), [&](int, int place, float score) {
      const int position = begin + place;
      const bool valid = position < length();
      if (valid && arguments_.dump != nullptr) {
        arguments_.dump[row_ * arguments_.dump_stride + position] = score;
      }
      const uint32_t key = valid ? ordered_key_of(score) : kAbsentKey;
      keys_[place] = key;
      if (valid) select_.count_first(key);
    });
  }

  __device__ void select() {
    const SelectionOutput& out = arguments_.out;
    const int begin = first_key();
    const int n = max(min(length() - begin, scores_.num_pages() * kPageKeys), 0);
    if (select_.select(keys_, n, begin, static_cast<uint32_t>(length()), static_cast<uint32_t>(out.topk),
                       SelectedRow{positions(), slots(), scores_.pages()})) {
      return;
    }
    if (rank_ != 0) return;
    write_first(0);
    if (threadIdx.x == 0) atomicOr(out.fault + arguments_.scores.rows.sequence[row_], kNanFault);
  }

  [[nodiscard]] __device__ int32_t* positions() const {
    return arguments_.out.positions + static_cast<int64_t>(row_) * arguments_.out.topk;
  }
  [[nodiscard]] __device__ int32_t* slots() const {
    if (arguments_.out.slots == nullptr) return nullptr;
    return arguments_.out.slots + static_cast<int64_t>(row_) * arguments_.out.topk;
  }
  /// Positions from 0 on as the row's selection.
  __device__ void write_first(int count) const {
    const RowMap& rows = arguments_.scores.rows;
    const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[row_]) * rows.page_stride;
    write_all<kThreads>(count, static_cast<uint32_t>(arguments_.out.topk), table, positions(), slots());
  }

  const DecodeArguments& arguments_;
  const int row_;
  const int blocks_;
  const int rank_;
  uint32_t* keys_;  // [slice]
  DecodeScores<kHeads, true> scores_;
  TopkSelect<kThreads, true> select_;
};

template <int kHeads>
__global__ void __launch_bounds__(kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeArguments arguments,
                  const __grid_constant__ DecodeLayout layout, int blocks, bool early_keys) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  const int row = static_cast<int>(blockIdx.x) / blocks;
  const int rank = static_cast<int>(blockIdx.x) % blocks;
  Decode<kHeads>(arguments, layout, shared, row, blocks, rank).run(early_keys);
}

auto kernel_for(const DecodeArguments& arguments) {
  return arguments.num_heads == 64 ? decode_kernel<64> : decode_kernel<32>;
}

DecodeLayout layout_for(const DecodeArguments& arguments, int blocks) {
  const int slice = slice_pages(arguments.scores.rows.max_context, blocks) * kPageKeys;
  return decode_layout(arguments.num_heads, 1, slice, blocks, true);
}

int choose_cluster(const DecodeArguments& arguments) {
  return choose_decode_cluster(
      arguments.scores.rows.num_rows, num_multiprocessors(),
      [&](int cluster) { return fits(layout_for(arguments, cluster), true); },
      [&](int cluster) { return decode_clusters_at_once(arguments, cluster); });
}

}  // namespace

int decode_clusters_at_once(const DecodeArguments& arguments, int cluster) {
  return clusters_at_once(kernel_for(arguments), cluster, kThreads,
                          static_cast<size_t>(layout_for(arguments, cluster).total));
}

bool decode_is_fastest(const DecodeArguments& arguments) {
  if (arguments.tokens_per_sequence > 1) return false;  // keys would be read for each token
  const int cluster = choose_cluster(arguments);
  return cluster > 0 && decode_takes(arguments, cluster) &&
         decode_is_fused(arguments.scores.rows.num_rows, cluster, decode_clusters_at_once(arguments, cluster),
                         arguments.scores.rows.max_context);
}

bool decode_takes(const DecodeArguments& arguments, int cluster) {
  const ScoreArguments& scores = arguments.scores;
  const bool shapes = (arguments.num_heads == 64 || arguments.num_heads == 32) &&
                      scores.q_stride_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(scores.q) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(scores.keys) % 16 == 0;
  return shapes && fits(layout_for(arguments, cluster > 0 ? cluster : kMostCluster), true);
}

cudaError_t launch_decode(const DecodeArguments& arguments, const LaunchOptions& options) {
  const int cluster = options.cluster > 0 ? options.cluster : choose_cluster(arguments);
  if (cluster == 0) return cudaErrorInvalidValue;
  const DecodeLayout layout = layout_for(arguments, cluster);
  if (!fits(layout, true)) return cudaErrorInvalidValue;
  return launch_clusters(
      kernel_for(arguments), dim3(static_cast<unsigned>(arguments.scores.rows.num_rows * cluster)), cluster,
      kThreads, static_cast<size_t>(layout.total), options, arguments, layout, cluster, options.early_keys);
}

}  // namespace fulgur::cuda
