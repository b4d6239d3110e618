// Exact top-k of given scores: a block, or a cluster of up to 16, takes a row, makes ordered keys of its
// scores in shared memory while counting their first 12 bits, and selects (topk_select.cuh).
//
// Bytes: each score is read once. Shared memory a block: 4 bytes a score of its slice, 42 KiB and more for
// selecting, so 43,776 scores (a third of 128k) at most; one block of 1,024 threads to a multiprocessor above
// 8,192, else three of 512.

#include "kernels/cuda/cluster_choice.h"
#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/topk_select.cuh"

namespace fulgur::cuda {
namespace {

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
  const int slice = topk_slice(length, static_cast<int>(cluster));
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

auto kernel_for(const TopkLayout& layout) {
  return layout.threads == 1024 ? topk_kernel<1024, 1> : topk_kernel<512, 3>;
}

int topk_clusters_at_once(const TopkLayout& layout) {
  return clusters_at_once(kernel_for(layout), layout.cluster, layout.threads, layout.shared_bytes());
}

}  // namespace

bool topk_takes(int max_context) {
  const int multiprocessors = num_multiprocessors();
  return least_topk_cluster(max_context, [&](int cluster) {
           return topk_clusters_at_once(topk_layout(1, max_context, cluster, multiprocessors));
         }) > 0;
}

cudaError_t launch_topk(const TopkArguments& arguments, const LaunchOptions& options) {
  const RowMap& rows = arguments.rows;
  const int multiprocessors = num_multiprocessors();
  const auto layout_for = [&](int cluster) {
    return topk_layout(rows.num_rows, rows.max_context, cluster, multiprocessors);
  };
  int cluster = options.cluster;
  if (cluster == 0) {
    cluster = choose_topk_cluster(rows.num_rows, rows.max_context, multiprocessors,
                                  [&](int each) { return topk_clusters_at_once(layout_for(each)); });
  }
  if (cluster == 0) return cudaErrorInvalidValue;
  TopkLayout layout = layout_for(cluster);
  if (layout.slice > kMostTopkSlice) return cudaErrorInvalidValue;
  if (options.threads > 0) layout.threads = options.threads / 512 * 512;
  return launch_clusters(kernel_for(layout), dim3(static_cast<unsigned>(rows.num_rows * cluster)), cluster,
                         layout.threads, layout.shared_bytes(), options, arguments, layout.slice);
}

}  // namespace fulgur::cuda
