// Scores of a step's few query rows against their sequences' cached keys, into memory: for contexts that are
// long, or not alike.
//
// The pages of all rows that are scored stand in one line, which is dealt to the multiprocessors in equal
// parts (page_deal.h), by the lengths as the kernel finds them: a long row among short ones is read by many
// blocks, and a launch bound above the lengths costs nothing. A block goes through its part by
// decode_scores.cuh; its ring fills on from one row to the next, while the queries change.
//
// Bytes: 132 a cached key, once for each group of a sequence's rows (up to four, counted from its first), and
// a score's 4; queries once a block and row.

#include <algorithm>

#include "kernels/cuda/decode_scores.cuh"
#include "kernels/cuda/indexer_launch.h"
#include "kernels/cuda/page_deal.h"
#include "kernels/cuda/reduce.cuh"

namespace fulgur::cuda {
namespace {

constexpr int kThreads = kDecodeThreads;
static_assert(kMostDealtRows == kThreads);

struct RowScoresArguments {
  ScoreArguments scores;
  float* out;  // [rows, stride]
  int64_t stride;
  int most_listed;  // pages at a time
  bool early_keys;
};

/// The runs of pages that rows, or those of one sequence together, are scored against, row after row.
template <int kPlaces>
struct Deal {
  int first_page[kMostDealtRows + 1];  // those behind the last: where it ends
  int first_position[kMostDealtRows];  // of its first row
  int sequence[kMostDealtRows];
  uint16_t row[kMostDealtRows];
  uint8_t count[kMostDealtRows];  // rows
  bool begins[kMostDealtRows];    // no row before them is of their sequence
  bool is_early[kDecodeGroups * kMostStages];
  int queried[kPlaces];          // rows whose queries the block has
  int2 of_warps[kThreads / 32];  // pages and runs
};

template <int kHeads, bool kOneRow>
class RowScores {
 public:
  static constexpr int kRowsOfRun = kOneRow ? 1 : kMostDecodeRows;
  static constexpr int kRuns = kOneRow ? 4 : 2;  // whose queries a block has at a time
  static constexpr int kPlaces = kRuns * kRowsOfRun;

  __device__ RowScores(const RowScoresArguments& arguments, const DecodeLayout& layout, uint8_t* shared,
                       Deal<kPlaces>& deal)
      : arguments_(arguments), deal_(deal), scores_(arguments.scores, layout, shared) {}

  __device__ void run() {
    if (!arguments_.early_keys) wait();
    const int pages = find_runs();
    const auto block = static_cast<int>(blockIdx.x);
    const int blocks = dealt_blocks(pages, static_cast<int>(gridDim.x));
    int begin = 0;
    int end = 0;
    if (block < blocks) {
      begin = first_dealt_page(pages, block, blocks);
      end = first_dealt_page(pages, block + 1, blocks);
    }
    do {
      const int next = min(begin + arguments_.most_listed, end);
      run_list(begin, next);
      begin = next;
    } while (begin < end);
  }

 private:
  [[nodiscard]] __device__ const RowMap& rows() const { return arguments_.scores.rows; }
  __device__ void wait() {
    wait_for_predecessor();
    allow_successor();
    waited_ = true;
  }

  /// A row a thread. How many pages there are in all.
  __device__ int find_runs() {
    const auto row = static_cast<int>(threadIdx.x);
    const bool is_row = row < rows().num_rows;
    const int first = is_row ? rows().position[row] : 0;
    const int sequence = is_row ? rows().sequence[row] : 0;
    const int before = is_row && row > 0 ? rows().sequence[row - 1] : -1;
    scores_.open();  // while they are on their way
    const bool begins = before != sequence;
    int in_sequence = 0;
    if constexpr (!kOneRow) in_sequence = rows_before(sequence, begins);
    int pages = 0;
    int count = 1;
    if (is_row) {
      bool is_first = true;
      if constexpr (!kOneRow) {
        is_first = in_sequence % kRowsOfRun == 0;
        const int end = min(row + kRowsOfRun, rows().num_rows);
        while (row + count < end && rows().sequence[row + count] == sequence) ++count;
      }
      const int longest = first + count;
      if (is_first && longest > arguments_.scores.unscored) pages = (longest + kPageKeys - 1) / kPageKeys;
    }
    // Sums over the threads before.
    const int lane = row % 32;
    const int warp = row / 32;
    const uint32_t scored = __ballot_sync(~0U, pages > 0);
    const auto sum = static_cast<int>(sum_of_lanes_up_to(static_cast<uint32_t>(pages)));
    if (lane == 31) deal_.of_warps[warp] = make_int2(sum, __popc(scored));
    __syncthreads();
    const int2 of_warp = lane < kThreads / 32 ? deal_.of_warps[lane] : make_int2(0, 0);
    const int all = __reduce_add_sync(~0U, of_warp.x);
    num_runs_ = __reduce_add_sync(~0U, of_warp.y);
    const int pages_before = __reduce_add_sync(~0U, lane < warp ? of_warp.x : 0) + sum - pages;
    const int run = __reduce_add_sync(~0U, lane < warp ? of_warp.y : 0) + __popc(scored & ((1U << lane) - 1));
    if (pages > 0) {
      deal_.first_page[run] = pages_before;
      deal_.first_position[run] = first;
      deal_.sequence[run] = sequence;
      deal_.row[run] = static_cast<uint16_t>(row);
      deal_.count[run] = static_cast<uint8_t>(count);
      deal_.begins[run] = begins;
    }
    if (row >= num_runs_) deal_.first_page[row] = all;
    if (row == 0) deal_.first_page[kMostDealtRows] = all;
    __syncthreads();
    return all;
  }

  /// How many rows of the launch before the thread's are of its sequence, with which it stands together.
  [[nodiscard]] __device__ int rows_before(int sequence, bool begins) const {
    const auto row = static_cast<int>(threadIdx.x);
    const int lane = row % 32;
    int before = 0;  // the warp's rows, of its first one's sequence
    for (int first = row - lane, same = 32; same == 32 && first > 0; first -= 32, before += same) {
      const bool is_same =
          rows().sequence[min(first - 32 + lane, rows().num_rows - 1)] == __shfl_sync(~0U, sequence, 0);
      same = __clz(static_cast<int>(~__ballot_sync(~0U, is_same)));
    }
    const uint32_t begun = __ballot_sync(~0U, begins) << (31 - lane);  // from this row downwards
    return begun != 0 ? __clz(static_cast<int>(begun)) : lane + before;
  }

  /// Pages [begin, end) of all, of which there may be none.
  __device__ void run_list(int begin, int end) {
    scores_.take_list(end - begin);
    for (int page = begin + static_cast<int>(threadIdx.x); page < end; page += kThreads) {
      const int run = run_of_page(deal_.first_page, num_runs_, page);
      const int place = page - deal_.first_page[run];
      const int32_t* table = rows().pages + static_cast<int64_t>(deal_.sequence[run]) * rows().page_stride;
      scores_.pages()[page - begin] = table[place];
      // Holds no key of this launch's rows.
      if (page - begin < kDecodeGroups * kMostStages)
        deal_.is_early[page - begin] = deal_.begins[run] && place < deal_.first_position[run] / kPageKeys;
    }
    int page = begin;
    int run = begin < end ? run_of_page(deal_.first_page, num_runs_, begin) : 0;
    choose_queries(run, end);
    __syncthreads();
    if (!waited_) {
      scores_.fill_ring_early(kMostStages, [&](int early) { return deal_.is_early[early]; });
      wait();
    }
    scores_.fill_ring();
    while (page < end) {
      scores_.template load_queries<kPlaces>([&](int place) { return deal_.queried[place]; }, [] {});
      for (int i = 0; i < kRuns && page < end; ++i, ++run) {
        const int stop = min(deal_.first_page[run + 1], end);
        score(run, i * kRowsOfRun, page - begin, stop - begin, deal_.first_page[run] - begin);
        page = stop;
      }
      choose_queries(run, end);
      // What comes next, queries and the next list's pages, comes where these were read.
      fence_async_proxy();
      __syncthreads();
    }
  }

  /// Of kRuns runs, or as many as begin before page `end`.
  __device__ void choose_queries(int run, int end) {
    const auto place = static_cast<int>(threadIdx.x);
    if (place >= kPlaces) return;
    const int of = run + place / kRowsOfRun;
    const int i = place % kRowsOfRun;
    const bool is_there = of < num_runs_ && deal_.first_page[of] < end && i < deal_.count[of];
    deal_.queried[place] = is_there ? deal_.row[of] + i : -1;
  }

  /// Pages [begin, end) of the list, which would hold the run's first at `first`.
  __device__ void score(int run, int queries, int begin, int end, int first) {
    const int last = deal_.first_position[run];
    float* out = arguments_.out + deal_.row[run] * arguments_.stride;
    scores_.run(queries, deal_.count[run], begin, end, [&](int i, int place, float score) {
      const int position = place - first * kPageKeys;
      if (position <= last + i) out[i * arguments_.stride + position] = score;
    });
  }

  const RowScoresArguments& arguments_;
  Deal<kPlaces>& deal_;
  DecodeScores<kHeads, kOneRow> scores_;
  int num_runs_ = 0;
  bool waited_ = false;
};

template <int kHeads, bool kOneRow>
__global__ void __launch_bounds__(kThreads, 1)
    row_scores_kernel(const __grid_constant__ RowScoresArguments arguments,
                      const __grid_constant__ DecodeLayout layout) {
  extern __shared__ uint8_t unaligned[];
  __shared__ Deal<RowScores<kHeads, kOneRow>::kPlaces> deal;
  uint8_t* shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  RowScores<kHeads, kOneRow>(arguments, layout, shared, deal).run();
}

auto kernel_for(int heads, bool one) {
  if (heads == 64) return one ? row_scores_kernel<64, true> : row_scores_kernel<64, false>;
  return one ? row_scores_kernel<32, true> : row_scores_kernel<32, false>;
}

}  // namespace

cudaError_t launch_row_scores(const DecodeArguments& arguments, float* scores, int64_t score_stride,
                              const LaunchOptions& options) {
  const int num_rows = arguments.scores.rows.num_rows;
  if (num_rows > kMostDealtRows) {
    const cudaError_t status =
        launch_row_scores(rows_of(arguments, 0, kMostDealtRows), scores, score_stride, options);
    if (status != cudaSuccess) return status;
    return launch_row_scores(rows_of(arguments, kMostDealtRows, num_rows - kMostDealtRows),
                             scores + kMostDealtRows * score_stride, score_stride, options);
  }
  // Where each row is of a sequence of its own.
  const int64_t most_pages =
      int64_t{num_rows} * ((arguments.scores.rows.max_context + kPageKeys - 1) / kPageKeys);
  const auto blocks = static_cast<int>(
      std::clamp<int64_t>((most_pages + kDecodeGroups - 1) / kDecodeGroups, 1, num_multiprocessors()));
  const auto listed =
      static_cast<int>(std::min<int64_t>((most_pages + blocks - 1) / blocks, kMostDealtPages));
  const bool is_one = arguments.tokens_per_sequence == 1;
  const int queries = is_one ? RowScores<64, true>::kPlaces : RowScores<64, false>::kPlaces;
  const DecodeLayout layout = decode_layout(arguments.num_heads, queries, listed * kPageKeys, 1, false);
  if (!fits(layout, false)) return cudaErrorInvalidValue;
  const RowScoresArguments all{arguments.scores, scores, score_stride, listed, options.early_keys};
  return launch_clusters(kernel_for(arguments.num_heads, is_one), dim3(static_cast<unsigned>(blocks)), 1,
                         kThreads, static_cast<size_t>(layout.total), options, all, layout);
}

}  // namespace fulgur::cuda
