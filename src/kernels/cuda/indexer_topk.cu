// Exact top-k of given scores: a block, or a cluster of up to 16, takes a row, makes ordered keys of its
// scores in shared memory while counting their first 12 bits, and selects (topk_select.cuh).
//
// Bytes: each score is read once. Shared memory a block: 6 bytes a score of its slice, 26 KiB of histograms
// and sums, so 32,768 scores at most; one block of 1,024 threads to a multiprocessor above 8,192, else two of
// 512.

#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/topk_select.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kMostSlice = 32768;
constexpr int kSliceStep = 128;  // slices are whole pages, and whole 16-byte reads of a warp

constexpr int slice_length(int length, int cluster) {
  return (length + cluster * kSliceStep - 1) / (cluster * kSliceStep) * kSliceStep;
}

constexpr size_t shared_bytes(int slice, int cluster) {
  return size_t{4} * pass_bins(0) + size_t{4} * pass_bins(1) + size_t{4} * SelectScratch::words(cluster) +
         static_cast<size_t>(slice) * 6 + static_cast<size_t>(slice) / 64 * 4;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads, 1)
    topk_kernel(const TopkArguments arguments, int slice_capacity) {
  extern __shared__ __align__(128) uint32_t shared[];
  SelectScratch scratch;
  uint32_t* keys = shared;
  scratch.first_histogram = keys + slice_capacity;
  scratch.second_histogram = scratch.first_histogram + pass_bins(0);
  scratch.small = scratch.second_histogram + pass_bins(1);
  const uint32_t cluster = cluster_size();
  scratch.survivors =
      reinterpret_cast<uint16_t*>(scratch.small + SelectScratch::words(static_cast<int>(cluster)));
  auto* slice_pages = reinterpret_cast<int32_t*>(scratch.survivors + slice_capacity);

  const uint32_t rank = cluster_rank();
  const int row = static_cast<int>(blockIdx.x / cluster);
  const RowMap& rows = arguments.rows;
  const SelectionOutput& out = arguments.out;
  TopkSelect<kThreads> select(scratch, cluster, rank);
  select.open();
  select.clear_first();

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
  bool met_nan = false;
  const auto take = [&](float score, int i) {
    const uint32_t bits = __float_as_uint(score);
    if (i >= n) return kAbsentKey;
    met_nan |= is_nan(bits);
    const uint32_t key = ordered_key(bits);
    select.count_first(key);
    return key;
  };
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) * 4; i < n; i += kThreads * 4) {
    // Rows are padded to whole vectors; what lies behind the last score is not looked at.
    const float4 four = *reinterpret_cast<const float4*>(scores + i);
    *reinterpret_cast<uint4*>(keys + i) =
        make_uint4(take(four.x, i), take(four.y, i + 1), take(four.z, i + 2), take(four.w, i + 3));
  }
  const SelectedRow to{positions, slots, slice_pages};
  if (!select.select(keys, n, begin, static_cast<uint32_t>(length), static_cast<uint32_t>(out.topk), met_nan,
                     to)) {
    if (rank == 0) {
      write_all<kThreads>(0, out.topk, pages, positions, slots);
      if (threadIdx.x == 0) atomicOr(out.fault + rows.sequence[row], kNanFault);
    }
  }
}

/// Measured: a block alone is fastest up to 16,384 scores, but for a few rows, which finish sooner shared
/// out.
int choose_cluster(int rows, int max_context) {
  constexpr int kLongSlice = 16384;
  constexpr int kFewBlocks = 16;
  constexpr int kShortSlice = 1024;
  int cluster = 1;
  while (cluster < kMostCluster && slice_length(max_context, cluster) > kMostSlice) cluster *= 2;
  while (cluster < kMostCluster && slice_length(max_context, cluster) > kLongSlice &&
         rows * cluster * 2 <= kMultiprocessors) {
    cluster *= 2;
  }
  while (rows * cluster * 2 <= kFewBlocks && slice_length(max_context, cluster * 2) >= kShortSlice) {
    cluster *= 2;
  }
  return cluster;
}

}  // namespace

bool topk_takes(const TopkArguments& arguments) {
  return arguments.rows.max_context <= kMostSlice * kMostCluster && arguments.score_stride % 4 == 0 &&
         reinterpret_cast<uintptr_t>(arguments.scores) % 16 == 0;
}

cudaError_t launch_topk(const TopkArguments& arguments, const LaunchOptions& options) {
  const RowMap& rows = arguments.rows;
  const int cluster = options.cluster > 0 ? options.cluster : choose_cluster(rows.num_rows, rows.max_context);
  const int slice = slice_length(rows.max_context, cluster);
  if (slice > kMostSlice) return cudaErrorInvalidValue;
  // Many rows: blocks small enough that others work while one waits.
  const bool many = rows.num_rows * cluster > 2 * kMultiprocessors;
  const bool wide = options.threads > 0 ? options.threads == 1024 : slice > 8192 && !many;
  const int threads = wide ? 1024 : 512;
  return launch_clusters(wide ? topk_kernel<1024> : topk_kernel<512>,
                         dim3(static_cast<unsigned>(rows.num_rows * cluster)), cluster, threads,
                         shared_bytes(slice, cluster), options, arguments, slice);
}

}  // namespace fulgur::cuda
