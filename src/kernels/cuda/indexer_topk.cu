// Exact top-k of given scores: a block, or a cluster of up to 16, takes a row, makes ordered keys of its
// scores in shared memory while counting their first 12 bits, and selects (topk_select.cuh).
//
// Bytes: each score is read once. Shared memory a block: 4 bytes a score of its slice, 42 KiB and more for
// selecting, so 43,776 scores (a third of 128k) at most; one block of 1,024 threads to a multiprocessor above
// 8,192 and where there is one for each, else three of 512.

#include <algorithm>

#include "kernels/cuda/cluster_choice.h"
#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/indexer_tuned.h"
#include "kernels/cuda/page_deal.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/topk_select.cuh"

namespace fulgur::cuda {
namespace {

/// The rows of a launch that deals, as a block finds them: long ones from the front, each for a cluster, the
/// others from the back, each for a block.
struct RowLists {
  uint8_t rows[kMostDealtTopkRows];
  int num_long;
};
static_assert(sizeof(RowLists) + sizeof(int) * 32 <= kDealtListBytes);  // and block_count's

template <int kThreads>
class Topk {
 public:
  __device__ Topk(const TopkArguments& arguments, uint32_t* shared, int capacity, bool early_rows)
      : arguments_(arguments),
        early_rows_(early_rows),
        cluster_(static_cast<int>(cluster_size())),
        rank_(static_cast<int>(cluster_rank())),
        capacity_(capacity),
        keys_(shared),
        slice_pages_(reinterpret_cast<int32_t*>(shared + capacity)),
        select_({shared + capacity + round_up(capacity / 64, 4), cluster_size()}, cluster_rank()) {}

  /// A row a cluster.
  __device__ void run() {
    open();
    run_row(static_cast<int>(blockIdx.x) / cluster_);
  }

  /// All rows of the launch, of whatever lengths, by the clusters there are.
  __device__ void run_dealt(RowLists& lists) {
    open();
    find_rows(lists);
    const auto blocks = static_cast<int>(gridDim.x);
    const int clusters = blocks / cluster_;
    const auto block = static_cast<int>(blockIdx.x);
    for (int i = block / cluster_; i < lists.num_long; i += clusters) {
      run_row(lists.rows[i]);
      __syncthreads();
      select_.clear();
    }
    const int busy = lists.num_long % clusters * cluster_;
    const int num_short = arguments_.rows.num_rows - lists.num_long;
    wait();
    select_.leave_cluster();
    cluster_ = 1;
    rank_ = 0;
    for (int n = 0;; ++n) {
      const int i = dealt_short_row(n, block, busy, blocks);
      if (i >= num_short) break;
      run_row(lists.rows[kMostDealtTopkRows - 1 - i]);
      __syncthreads();
      select_.clear();
    }
  }

 private:
  __device__ void open() {
    select_.open();
    select_.clear();
    if (!early_rows_) wait();
  }
  /// For the kernel ahead and the cluster's other blocks, once.
  __device__ void wait() {
    if (waited_) return;
    wait_for_predecessor();
    allow_successor();
    select_.await_cluster();
    waited_ = true;
  }

  __device__ void find_rows(RowLists& lists) {
    const auto row = static_cast<int>(threadIdx.x);
    const bool is_row = row < arguments_.rows.num_rows;
    const bool is_long = is_row && arguments_.rows.position[row] + 1 > capacity_;
    const Count longer = block_count(is_long);
    if (is_row) {
      lists.rows[is_long ? longer.before : kMostDealtTopkRows - 1 - (row - longer.before)] =
          static_cast<uint8_t>(row);
    }
    if (row == 0) lists.num_long = longer.total;
    __syncthreads();
  }

  /// The counts are clear.
  __device__ void run_row(int row) {
    const RowMap& rows = arguments_.rows;
    const SelectionOutput& out = arguments_.out;
    const int length = rows.position[row] + 1;
    const int32_t* pages = rows.pages + static_cast<int64_t>(rows.sequence[row]) * rows.page_stride;
    int32_t* positions = out.positions + static_cast<int64_t>(row) * out.topk;
    int32_t* slots = out.slots == nullptr ? nullptr : out.slots + static_cast<int64_t>(row) * out.topk;
    if (length <= out.topk) {
      wait();
      if (rank_ == 0) write_all<kThreads>(length, out.topk, pages, positions, slots);
      return;
    }
    const int slice = topk_slice(length, cluster_);
    const int begin = rank_ * slice;
    const int n = max(min(length - begin, slice), 0);
    if (slots != nullptr) {
      for (int i = static_cast<int>(threadIdx.x); i * 64 < n; i += kThreads) {
        slice_pages_[i] = pages[begin / 64 + i];
      }
    }
    wait();
    __syncthreads();

    const float* scores = arguments_.scores + row * arguments_.score_stride + begin;
    const auto take = [&](float score) {
      const uint32_t key = ordered_key_of(score);
      select_.count_first(key);
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
      *reinterpret_cast<uint4*>(keys_ + i) = key;
    }
    __syncthreads();
    if (!select_.select(keys_, n, begin, static_cast<uint32_t>(length), static_cast<uint32_t>(out.topk),
                        SelectedRow{positions, slots, slice_pages_})) {
      if (rank_ == 0) {
        write_all<kThreads>(0, out.topk, pages, positions, slots);
        if (threadIdx.x == 0) atomicOr(out.fault + rows.sequence[row], kNanFault);
      }
    }
  }

  const TopkArguments& arguments_;
  const bool early_rows_;
  bool waited_ = false;
  int cluster_;
  int rank_;
  const int capacity_;
  uint32_t* keys_;
  int32_t* slice_pages_;
  TopkSelect<kThreads, false> select_;
};

template <int kThreads, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    topk_kernel(const __grid_constant__ TopkArguments arguments, int capacity, bool early_rows) {
  extern __shared__ __align__(128) uint32_t shared[];
  Topk<kThreads>(arguments, shared, capacity, early_rows).run();
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads, 1)
    dealt_topk_kernel(const __grid_constant__ TopkArguments arguments, int capacity, bool early_rows) {
  extern __shared__ __align__(128) uint32_t shared[];
  __shared__ RowLists lists;
  Topk<kThreads>(arguments, shared, capacity, early_rows).run_dealt(lists);
}

auto kernel_for(const TopkLayout& layout) {
  if (layout.is_dealt) return layout.threads == 1024 ? dealt_topk_kernel<1024> : dealt_topk_kernel<512>;
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
  const auto at_once = [&](int each) { return topk_clusters_at_once(layout_for(each)); };
  int cluster = options.cluster;
  if (cluster == 0) {
    cluster = choose_topk_cluster(rows.num_rows, rows.max_context, multiprocessors, at_once);
  }
  if (cluster == 0) return cudaErrorInvalidValue;
  const bool deals = options.cluster == 0 && cluster > 1 &&
                     !run_side_by_side(rows.num_rows, cluster, multiprocessors, at_once);
  if (deals && rows.num_rows > kMostDealtTopkRows) {
    const cudaError_t status = launch_topk(rows_of(arguments, 0, kMostDealtTopkRows), options);
    if (status != cudaSuccess) return status;
    return launch_topk(rows_of(arguments, kMostDealtTopkRows, rows.num_rows - kMostDealtTopkRows), options);
  }
  TopkLayout layout = layout_for(cluster);
  if (layout.slice > kMostTopkSlice) return cudaErrorInvalidValue;
  if (options.threads > 0) layout.threads = options.threads / 512 * 512;
  int clusters = rows.num_rows;
  if (deals) {
    const auto dealt = [&](int each) { return dealt_topk_layout(rows.max_context, each); };
    layout = dealt(choose_dealt_topk_cluster(rows.max_context,
                                             [&](int each) { return topk_clusters_at_once(dealt(each)); }));
    clusters = std::min(clusters, topk_clusters_at_once(layout));
  }
  const int blocks = clusters * layout.cluster;
  size_t shared = layout.shared_bytes();
  // Where they start beside the kernel ahead, blocks that could share a multiprocessor do, and take longer
  // than with one each.
  if (clusters > 1 && blocks <= multiprocessors) shared = std::max(shared, kMostSharedBytes / 2);
  return launch_clusters(kernel_for(layout), dim3(static_cast<unsigned>(blocks)), layout.cluster,
                         layout.threads, shared, options, arguments, layout.slice, options.early_keys);
}

}  // namespace fulgur::cuda
