// Exact top-k of given scores: a block, or a cluster of up to 16, takes a row, makes ordered keys of its
// scores in shared memory while counting their first 12 bits, and selects (topk_select.cuh).
//
// Bytes: each score is read once. Shared memory a block: 4 bytes a score of its slice, 42 KiB and more for
// selecting, so 43,776 scores (a third of 128k) at most; one block of 1,024 threads to a multiprocessor above
// 8,192, else three of 512.

#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/topk_select.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kMostSlice = 43776;
constexpr int kSliceStep = 128;  // slices are whole pages, and whole 16-byte reads of a warp

constexpr int slice_length(int length, int cluster) {
  return (length + cluster * kSliceStep - 1) / (cluster * kSliceStep) * kSliceStep;
}

constexpr size_t shared_bytes(int slice, int cluster, int threads) {
  return size_t{4} *
         static_cast<size_t>(SelectScratch::size(threads, cluster) + slice + round_up(slice / 64, 4));
}

template <int kThreads, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    topk_kernel(const TopkArguments arguments, int slice_capacity) {
  extern __shared__ __align__(128) uint32_t shared[];
  const uint32_t cluster = cluster_size();
  uint32_t* keys = shared;
  auto* slice_pages = reinterpret_cast<int32_t*>(keys + slice_capacity);
  const SelectScratch scratch{keys + slice_capacity + round_up(slice_capacity / 64, 4), cluster};

  const uint32_t rank = cluster_rank();
  const int row = static_cast<int>(blockIdx.x / cluster);
  const RowMap& rows = arguments.rows;
  const SelectionOutput& out = arguments.out;
  TopkSelect<kThreads, false> select(scratch, rank);
  select.open();
  select.clear();

  wait_for_predecessor();
  allow_successor();
  const int length = rows.position[row] + 1;
  const int32_t* pages = rows.pages + static_cast<int64_t>(rows.sequence[row]) * rows.page_stride;
  int32_t* positions = out.positions + static_cast<int64_t>(row) * out.topk;
  int32_t* slots = out.slots == nullptr ? nullptr : out.slots + static_cast<int64_t>(row) * out.topk;
  select.await_cluster();
  if (length <= out.topk) {
    if (rank == 0) write_all<kThreads>(length, out.topk, pages, positions, slots);
    return;
  }
  const int slice = slice_length(length, static_cast<int>(cluster));
  const int begin = static_cast<int>(rank) * slice;
  const int n = max(min(length - begin, slice), 0);
  if (slots != nullptr) {
    for (int i = static_cast<int>(threadIdx.x); i * 64 < n; i += kThreads) {
      slice_pages[i] = pages[begin / 64 + i];
    }
  }
  __syncthreads();

  const float* scores = arguments.scores + row * arguments.score_stride + begin;
  const auto take = [&](float score) {
    const uint32_t key = ordered_key_of(score);
    select.count_first(key);
    return key;
  };
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) * 4; i < n; i += kThreads * 4) {
    // Rows are padded to whole vectors; what lies behind the last score is not looked at.
    const float4 four = *reinterpret_cast<const float4*>(scores + i);
    uint4 key = make_uint4(take(four.x), kAbsentKey, kAbsentKey, kAbsentKey);
    if (i + 1 < n) key.y = take(four.y);
    if (i + 2 < n) key.z = take(four.z);
    if (i + 3 < n) key.w = take(four.w);
    *reinterpret_cast<uint4*>(keys + i) = key;
  }
  __syncthreads();
  const SelectedRow to{positions, slots, slice_pages};
  if (!select.select(keys, n, begin, static_cast<uint32_t>(length), static_cast<uint32_t>(out.topk), to)) {
    if (rank == 0) {
      write_all<kThreads>(0, out.topk, pages, positions, slots);
      if (threadIdx.x == 0) atomicOr(out.fault + rows.sequence[row], kNanFault);
    }
  }
}

/// Many rows: blocks small enough that others work while one waits.
int threads_of(int rows, int slice, int cluster) {
  return slice > 8192 && rows * cluster <= 2 * kMultiprocessors ? 1024 : 512;
}

bool fits(int rows, int slice, int cluster) {
  return slice <= kMostSlice &&
         shared_bytes(slice, cluster, threads_of(rows, slice, cluster)) <= kMostSharedBytes;
}

bool run_at_once(int rows, int slice, int cluster) {
  const int threads = threads_of(rows, slice, cluster);
  return rows <= clusters_at_once(threads == 1024 ? topk_kernel<1024, 1> : topk_kernel<512, 3>, cluster,
                                  threads, shared_bytes(slice, cluster, threads));
}

/// Measured: a block alone is fastest up to 16,384 scores, but for a few rows, which finish sooner shared
/// out; clusters of which some wait for others are not worth it.
int choose_cluster(int rows, int max_context) {
  constexpr int kLongSlice = 16384;
  constexpr int kFewBlocks = 16;
  constexpr int kShortSlice = 1024;
  int least = 1;
  while (least < kMostCluster && !fits(rows, slice_length(max_context, least), least)) ++least;
  int chosen = least;
  for (const int cluster : {2, 4, 8, 16}) {
    const int slice = slice_length(max_context, cluster);
    if (cluster <= least) continue;
    const bool few = rows * cluster <= kFewBlocks && slice >= kShortSlice;
    const bool is_long = slice_length(max_context, chosen) > kLongSlice;
    if (few || (is_long && rows * cluster <= kMultiprocessors && run_at_once(rows, slice, cluster)))
      chosen = cluster;
  }
  return chosen;
}

}  // namespace

cudaError_t launch_topk(const TopkArguments& arguments, const LaunchOptions& options) {
  const RowMap& rows = arguments.rows;
  const int cluster = options.cluster > 0 ? options.cluster : choose_cluster(rows.num_rows, rows.max_context);
  const int slice = slice_length(rows.max_context, cluster);
  if (slice > kMostSlice) return cudaErrorInvalidValue;
  const int threads =
      options.threads > 0 ? options.threads / 512 * 512 : threads_of(rows.num_rows, slice, cluster);
  return launch_clusters(threads == 1024 ? topk_kernel<1024, 1> : topk_kernel<512, 3>,
                         dim3(static_cast<unsigned>(rows.num_rows * cluster)), cluster, threads,
                         shared_bytes(slice, cluster, threads), options, arguments, slice);
}

}  // namespace fulgur::cuda
