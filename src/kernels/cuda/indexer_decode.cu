// Decode: scores of a step's few query rows against their sequences' cached keys, and the exact top-k of each
// row, in one kernel.
//
// A cluster of up to 16 blocks takes up to four consecutive rows of one sequence (a token and its drafts).
// Each block has a contiguous slice of the pages and scores it (decode_scores.cuh). Scores become ordered
// keys in shared memory, with one row counted for the selection's first pass on the way, and topk_select.cuh
// does the rest. Rows that may read everything aren't scored.
//
// Bytes: 132 a cached key, once for all rows of a sequence. Shared memory: 4 bytes a score and row
// of the slice, 128 bytes a head and row, 42 KiB and more for selecting, the rest pages on their way.

#include "kernels/cuda/cluster_choice.h"
#include "kernels/cuda/decode_scores.cuh"
#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/topk_select.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = kDecodeThreads;

/// kOneRow: a row's keys are counted as they are made.
template <int kHeads, bool kOneRow>
class Decode {
 public:
  __device__ Decode(const DecodeArguments& arguments, const DecodeLayout& layout, uint8_t* shared, int blocks,
                    int rank, bool early_keys)
      : arguments_(arguments),
        blocks_(blocks),
        rank_(rank),
        early_keys_(early_keys),
        slice_(layout.slice),
        keys_(reinterpret_cast<uint32_t*>(shared + layout.keys)),
        scores_(arguments.scores, layout, shared),
        select_(
            SelectScratch{reinterpret_cast<uint32_t*>(shared + layout.select), static_cast<uint32_t>(blocks)},
            static_cast<uint32_t>(rank)) {}

  /// Rows [first, end): run after run of one sequence.
  __device__ void run(int first, int end) {
    const RowMap& rows = arguments_.scores.rows;
    if (!early_keys_) {
      open();
      wait();
    }
    if constexpr (kOneRow) {
      run_sequence(first, 1);
    } else {
      while (first < end) {
        int count = 1;
        while (first + count < end && rows.sequence[first + count] == rows.sequence[first]) ++count;
        run_sequence(first, count);
        first += count;
        if (first < end) {
          // The next queries come where the tensor cores read the last.
          fence_async_proxy();
          __syncthreads();
        }
      }
    }
  }

 private:
  __device__ void open() {
    scores_.open();
    select_.open();
    opened_ = true;
  }
  __device__ void wait() {
    select_.await_cluster();
    wait_for_predecessor();
    allow_successor();
    waited_ = true;
  }
  __device__ uint32_t* keys(int i) const { return keys_ + i * slice_; }

  __device__ void run_sequence(int first, int count) {
    const RowMap& rows = arguments_.scores.rows;
    scores_.take_slice(first, count, blocks_, rank_, [&] {
      if (!opened_) open();
      if constexpr (kOneRow) select_.clear();
    });
    __syncthreads();
    const int longest = scores_.first_position() + count;
    const bool scored = longest > arguments_.out.topk;
    if (!waited_) {
      // Pages that hold no key of this launch's rows.
      const bool begins = first == 0 || rows.sequence[first - 1] != rows.sequence[first];
      // Where all read at once, queries would wait behind a whole ring.
      const int stages = is_small(blocks_) ? kClusterStages / 2 : kMostStages;
      const int before = scores_.first_position() / kPageKeys - scores_.first_page();
      if (scored && begins) scores_.fill_ring_early(stages, [&](int page) { return page < before; });
      wait();
    }
    if (scored) {
      scores_.template load_queries<kOneRow ? 1 : kMostDecodeRows>(
          [&](int i) { return i < count ? first + i : -1; }, [&] { scores_.fill_ring(); });
      const int begin = scores_.first_page() * kPageKeys;
      scores_.run(0, count, 0, scores_.num_pages(), [&](int i, int place, float score) {
        take(score, first + i, keys(i) + place, begin + place, scores_.first_position() + i);
      });
      __syncthreads();
    }
#pragma unroll 1
    for (int i = 0; i < count; ++i) select_row(first + i, i);
  }

  /// The score of position `position` of a row whose own is `last`.
  __device__ void take(float score, int row, uint32_t* to, int position, int last) const {
    const bool valid = position <= last;
    if (valid && arguments_.dump != nullptr) {
      arguments_.dump[row * arguments_.dump_stride + position] = score;
    }
    const uint32_t key = valid ? ordered_key_of(score) : kAbsentKey;
    *to = key;
    if constexpr (kOneRow) {
      if (valid) select_.count_first(key);
    }
  }

  __device__ void select_row(int row, int i) {
    const RowMap& rows = arguments_.scores.rows;
    const SelectionOutput& out = arguments_.out;
    const int length = scores_.first_position() + i + 1;
    int32_t* positions = out.positions + static_cast<int64_t>(row) * out.topk;
    int32_t* slots = out.slots == nullptr ? nullptr : out.slots + static_cast<int64_t>(row) * out.topk;
    const auto write_first = [&](int written) {
      const int32_t* table = rows.pages + static_cast<int64_t>(rows.sequence[row]) * rows.page_stride;
      write_all<kThreads>(written, static_cast<uint32_t>(out.topk), table, positions, slots);
    };
    if (length <= out.topk) {
      if (rank_ == 0) write_first(length);
      return;
    }
    const int begin = scores_.first_page() * kPageKeys;
    const int n = max(min(length - begin, scores_.num_pages() * kPageKeys), 0);
    if constexpr (!kOneRow) {
      select_.clear();
      __syncthreads();
      for (int k = static_cast<int>(threadIdx.x); k < n; k += kThreads) select_.count_first(keys(i)[k]);
      __syncthreads();
    }
    const bool selected =
        select_.select(keys(i), n, begin, static_cast<uint32_t>(length), static_cast<uint32_t>(out.topk),
                       SelectedRow{positions, slots, scores_.pages()});
    if (!selected && rank_ == 0) {
      write_first(0);
      if (threadIdx.x == 0) atomicOr(out.fault + rows.sequence[row], kNanFault);
    }
    if constexpr (!kOneRow) __syncthreads();
  }

  const DecodeArguments& arguments_;
  const int blocks_;
  const int rank_;
  const bool early_keys_;
  const int slice_;
  uint32_t* keys_;  // [rows, slice]
  DecodeScores<kHeads, kOneRow> scores_;
  TopkSelect<kThreads, true> select_;
  bool opened_ = false;
  bool waited_ = false;
};

template <int kHeads, bool kOneRow>
__global__ void __launch_bounds__(kThreads, 1)
    decode_kernel(const __grid_constant__ DecodeArguments arguments,
                  const __grid_constant__ DecodeLayout layout, int blocks, int rows, bool early_keys) {
  extern __shared__ uint8_t unaligned[];
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  const int group_of_rows = static_cast<int>(blockIdx.x) / blocks;
  const int rank = static_cast<int>(blockIdx.x) % blocks;
  Decode<kHeads, kOneRow> decode(arguments, layout, shared, blocks, rank, early_keys);
  const int first = group_of_rows * rows;
  decode.run(first, min(first + rows, arguments.scores.rows.num_rows));
}

auto kernel_for(const DecodeArguments& arguments) {
  const bool one = arguments.tokens_per_sequence == 1;
  if (arguments.num_heads == 64) return one ? decode_kernel<64, true> : decode_kernel<64, false>;
  return one ? decode_kernel<32, true> : decode_kernel<32, false>;
}

DecodeLayout layout_for(const DecodeArguments& arguments, int blocks) {
  const int slice = slice_pages(arguments.scores.rows.max_context, blocks) * kPageKeys;
  return decode_layout(arguments.num_heads, arguments.tokens_per_sequence, slice, blocks, true);
}

int groups_of(const DecodeArguments& arguments) {
  const int rows = arguments.tokens_per_sequence;
  return (arguments.scores.rows.num_rows + rows - 1) / rows;
}

int choose_cluster(const DecodeArguments& arguments) {
  return choose_decode_cluster(
      groups_of(arguments), num_multiprocessors(),
      [&](int cluster) { return fits(layout_for(arguments, cluster), true); },
      [&](int cluster) { return decode_clusters_at_once(arguments, cluster); });
}

}  // namespace

int decode_clusters_at_once(const DecodeArguments& arguments, int cluster) {
  return clusters_at_once(kernel_for(arguments), cluster, kThreads,
                          static_cast<size_t>(layout_for(arguments, cluster).total));
}

bool decode_is_fastest(const DecodeArguments& arguments) {
  const int cluster = choose_cluster(arguments);
  return cluster > 0 && decode_takes(arguments, cluster) &&
         decode_is_fused(groups_of(arguments), cluster, decode_clusters_at_once(arguments, cluster),
                         arguments.scores.rows.max_context);
}

bool decode_takes(const DecodeArguments& arguments, int cluster) {
  const ScoreArguments& scores = arguments.scores;
  const bool shapes = (arguments.num_heads == 64 || arguments.num_heads == 32) &&
                      arguments.tokens_per_sequence >= 1 && arguments.tokens_per_sequence <= 4 &&
                      scores.q_stride_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(scores.q) % 16 == 0 &&
                      reinterpret_cast<uintptr_t>(scores.keys) % 16 == 0;
  return shapes && fits(layout_for(arguments, cluster > 0 ? cluster : kMostCluster), true);
}

cudaError_t launch_decode(const DecodeArguments& arguments, const LaunchOptions& options) {
  const int cluster = options.cluster > 0 ? options.cluster : choose_cluster(arguments);
  if (cluster == 0) return cudaErrorInvalidValue;
  const DecodeLayout layout = layout_for(arguments, cluster);
  if (!fits(layout, true)) return cudaErrorInvalidValue;
  return launch_clusters(kernel_for(arguments), dim3(static_cast<unsigned>(groups_of(arguments) * cluster)),
                         cluster, kThreads, static_cast<size_t>(layout.total), options, arguments, layout,
                         cluster, arguments.tokens_per_sequence, options.early_keys);
}

}  // namespace fulgur::cuda
